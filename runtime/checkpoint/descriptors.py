"""The standard descriptors of a container across a checkpoint, and the files behind them.

What leads out of the container cannot be dumped: a pipe to a supervisor, a log file. It gets CRIU's
name for it at the dump, and at the restore a descriptor of the restoring side in its
place (criu(8) --inherit-fd). proc_pid_fd(5), proc_pid_fdinfo(5).
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from runtime.errors import CheckpointFailed
from runtime.memory import shmem
from runtime.syscalls import pidfd_getfd

STANDARD = (0, 1, 2)

_PIPE = re.compile(r"pipe:\[\d+\]")
_FILE = re.compile(r"file\[[0-9a-f]+:[0-9a-f]+\]")


class Kind(StrEnum):
    """What a standard descriptor leads to."""

    PIPE = "pipe"
    #: a file of the host
    FILE = "file"
    #: something of the container's own, or nothing: CRIU restores it by itself
    INSIDE = "inside"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One standard descriptor of a container that is dumped."""

    kind: Kind
    #: what proc_pid_fd(5) shows
    link: str = ""
    #: CRIU's name for it
    key: str = ""
    #: of a file that is not only appended to
    position: int = 0

    def __post_init__(self) -> None:
        if self.kind is not Kind.INSIDE and not _KEYS[self.kind].fullmatch(self.key):
            raise ValueError(f"{self.key!r} is not CRIU's name of a {self.kind}")

    @property
    def external(self) -> str | None:
        """What has to be declared external for a dump; pipes need not be."""
        return self.key if self.kind is Kind.FILE else None

    @property
    def inherit_key(self) -> str | None:
        """The name under which a restore looks for our descriptor."""
        # files-reg.c takes the first character off every path, and only a descriptor found by what
        # is left is used as it is: by the whole name it would be opened again and its size checked
        return self.key[1:] if self.kind is Kind.FILE else self.key or None

    def to_json(self) -> dict[str, Any]:
        """The object that from_json takes."""
        return {
            "kind": str(self.kind),
            "link": self.link,
            "key": self.key,
            "position": self.position,
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Raises ValueError when *data* is no such object."""
        match data:
            case {"kind": str(kind), "link": str(link), "key": str(key), "position": int(position)}:
                return cls(Kind(kind), link, key, max(0, position))
        raise ValueError(f"{data!r} does not describe a descriptor")


_KEYS = {Kind.PIPE: _PIPE, Kind.FILE: _FILE}


def of_process(pid: int, mount_ids: Container[int]) -> list[Descriptor]:
    """The standard descriptors of *pid*; what lies on one of *mount_ids* is inside."""
    return [_describe(pid, fd, mount_ids) for fd in STANDARD]


def _describe(pid: int, fd: int, mount_ids: Container[int]) -> Descriptor:
    try:
        link = os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return Descriptor(Kind.INSIDE)
    if _PIPE.fullmatch(link):
        return Descriptor(Kind.PIPE, link, link)
    if key := _outside_key(pid, fd, mount_ids):
        return Descriptor(Kind.FILE, link, key)
    return Descriptor(Kind.INSIDE, link)


def _outside_key(pid: int, fd: int, mount_ids: Container[int]) -> str | None:
    """CRIU's name for a file or device that no mount of the container shows."""
    status = os.stat(f"/proc/{pid}/fd/{fd}")
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISCHR(status.st_mode)):
        return None
    if status.st_dev == shmem.device():  # CRIU dumps what memfd_create(2) made
        return None
    mount_id = fdinfo(pid, fd)["mnt_id"]
    return None if mount_id in mount_ids else f"file[{mount_id:x}:{status.st_ino:x}]"


def fdinfo(pid: int, fd: int) -> dict[str, int]:
    """pos, flags and mnt_id of a descriptor."""
    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return {
        "pos": int(fields["pos"]),
        "flags": int(fields["flags"], 8),
        "mnt_id": int(fields["mnt_id"]),
    }


def with_positions(descriptors: Sequence[Descriptor], pid: int) -> list[Descriptor]:
    """The same, with where files are read and written now: for a process that stands still."""
    found = []
    for fd, each in enumerate(descriptors):
        with suppress(OSError):
            if each.kind is Kind.FILE:
                each = replace(each, position=fdinfo(pid, fd)["pos"])
        found.append(each)
    return found


def check_others(
    container_id: str,
    pids: Iterable[int],
    mount_ids: Container[int],
    known: Sequence[Descriptor],
) -> None:
    """Raise CheckpointFailed when a process holds a file of the host that is no standard one."""
    keys = {each.key for each in known}
    for pid in pids:
        for fd in _open_fds(pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                if (key := _outside_key(pid, fd, mount_ids)) and key not in keys:
                    link = os.readlink(f"/proc/{pid}/fd/{fd}")
                    raise CheckpointFailed(
                        container_id,
                        f"process {pid} holds {link} of the host as descriptor {fd}: "
                        "end that process, or have it close the file",
                    )


def _open_fds(pid: int) -> Iterator[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        yield from (int(name) for name in os.listdir(f"/proc/{pid}/fd"))


def inherited(descriptors: Sequence[Descriptor], given: Sequence[int]) -> dict[str, int]:
    """CRIU's name -> our descriptor, for what leads outside; of equal names the first counts."""
    found: dict[str, int] = {}
    for each, fd in zip(descriptors, given, strict=True):
        if each.inherit_key:
            found.setdefault(each.inherit_key, fd)
    return found


def unusable(descriptor: Descriptor, given: int) -> str | None:
    """Why *given* cannot take the place of *descriptor*; None when it can."""
    # pipes.c opens what it inherits again, through /proc, which no socket allows
    if descriptor.kind is Kind.PIPE and stat.S_ISSOCK(os.fstat(given).st_mode):
        return "is a socket where a pipe, a file or /dev/null is needed"
    return None


def set_positions(descriptors: Sequence[Descriptor], given: Sequence[int]) -> None:
    """Have files go on where they were: by position, or at the end where they are appended to."""
    for each, fd in zip(descriptors, given, strict=True):
        if each.kind is Kind.FILE and _is_plain_file(fd):
            os.lseek(fd, min(each.position, os.fstat(fd).st_size), os.SEEK_SET)


def keep_appending(descriptors: Sequence[Descriptor], given: Sequence[int], pid: int) -> None:
    """Where a file was given for a pipe, have *pid* write to its end.

    CRIU has opened the file again, with the flags of the pipe: it would overwrite from the start.
    """
    pidfd = os.pidfd_open(pid)
    try:
        for number, (each, fd) in enumerate(zip(descriptors, given, strict=True)):
            if each.kind is Kind.PIPE and number and _is_plain_file(fd):
                with suppress(OSError):  # it has closed that descriptor
                    _append(pidfd_getfd(pidfd, number), fd)
    finally:
        os.close(pidfd)


def _append(theirs: int, given: int) -> None:
    try:
        if os.path.sameopenfile(theirs, given):
            flags = fcntl.fcntl(theirs, fcntl.F_GETFL)
            fcntl.fcntl(theirs, fcntl.F_SETFL, flags | os.O_APPEND)
    finally:
        os.close(theirs)


def _is_plain_file(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)
