"""The mounts of a process, as /proc/PID/mountinfo lists them (proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_ESCAPED = re.compile(r"\\([0-7]{3})")


class MountInfo(NamedTuple):
    """One mount: its number, and where it is, seen from the process' root."""

    id: int
    point: str


def of_process(pid: int) -> list[MountInfo]:
    """The mounts that process *pid* sees, in the order in which they were made."""
    return parse(Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape"))


def parse(text: str) -> list[MountInfo]:
    """Read the lines of mountinfo."""
    fields = (line.split(" ") for line in text.splitlines())
    return [MountInfo(int(each[0]), _plain(each[4])) for each in fields]


def _plain(text: str) -> str:
    """Blanks and backslashes are written as octal numbers."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
