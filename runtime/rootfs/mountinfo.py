"""The mounts of a process, as /proc/PID/mountinfo lists them (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_ESCAPED = re.compile(r"\\([0-7]{3})")


class MountInfo(NamedTuple):
    """One mount: its number, and where it is, seen from the process' root."""

    id: int
    point: str
    #: what of the filesystem it shows
    root: str = "/"
    #: st_dev of the filesystem
    device: int = 0
    #: the optional fields: peer groups, "unbindable"
    propagation: tuple[str, ...] = ()
    fstype: str = ""
    source: str = ""
    #: the filesystem's own, not the mount's
    options: tuple[str, ...] = ()
    #: number of the mount that it lies on
    parent: int = 0


def of_process(pid: int) -> list[MountInfo]:
    """The mounts that process *pid* sees, in the order in which they were made."""
    return parse(Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape"))


def of_thread(*fstypes: str) -> list[MountInfo]:
    """The mounts that the calling thread sees; *fstypes*: see `parse`."""
    text = Path("/proc/thread-self/mountinfo").read_text(errors="surrogateescape")
    return parse(text, *fstypes)


def parse(text: str, *fstypes: str) -> list[MountInfo]:
    """Read the lines of mountinfo; of these filesystems only, where any are named."""
    lines = text.splitlines()
    if fstypes:
        lines = [each for each in lines if _fstype(each) in fstypes]
    return [_line(line.split(" ")) for line in lines]


def _fstype(line: str) -> str:
    return line.partition(" - ")[2].partition(" ")[0]


def _line(fields: list[str]) -> MountInfo:
    separator = fields.index("-", 6)
    major, minor = fields[2].split(":")
    return MountInfo(
        id=int(fields[0]),
        point=_plain(fields[4]),
        root=_plain(fields[3]),
        device=os.makedev(int(major), int(minor)),
        propagation=tuple(fields[6:separator]),
        fstype=fields[separator + 1],
        source=_plain(fields[separator + 2]),
        options=tuple(fields[separator + 3].split(",")),
        parent=int(fields[1]),
    )


def _plain(text: str) -> str:
    """Blanks and backslashes are written as octal numbers."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
