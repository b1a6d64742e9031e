"""Memory that processes share: System V, memfd, shared anonymous mappings.

All of it is files on a tmpfs of the kernel's own, mounted nowhere (mm/shmem.c). CRIU dumps them
whole (criu/shmem.c, memfd.c), from the list of pages that any of the processes has. Here a file is
read by one of its mappings, /proc/PID/map_files: a process' page tables lack what only others use.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from runtime.holes import extents
from runtime.memory import maps
from runtime.memory.runs import PAGE

_AT_ONCE = 1 << 20
_SECTOR_BYTES = 512  # stat(2) st_blocks


class Segment(NamedTuple):
    """One piece of shared memory; size_bytes: of the pages that it has."""

    path: str
    size_bytes: int


def segments(pids: Iterable[int]) -> list[Segment]:
    """The shared memory of *pids*, each piece once, by a mapping of it as it is now."""
    found: dict[int, Segment] = {}
    for pid in pids:
        with suppress(OSError):  # it has ended
            for each in maps.of_process(pid):
                if each.shared and each.inode and each.inode not in found:
                    path = f"/proc/{pid}/map_files/{each.start:x}-{each.end:x}"
                    _add(path, found)
    return list(found.values())


def _add(path: str, found: dict[int, Segment]) -> None:
    with suppress(OSError):  # unmapped meanwhile
        status = os.stat(path)  # opens nothing: what is mapped may be a device
        if status.st_dev == device() and stat.S_ISREG(status.st_mode):
            found[status.st_ino] = Segment(path, status.st_blocks * _SECTOR_BYTES)


def blocks(segment: Segment) -> Iterator[bytes]:
    """The pages that *segment* has, in order, some at a time; nothing once it is unmapped."""
    with suppress(OSError):
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for start, size in extents(fd, os.fstat(fd).st_size):
                end = start + size
                for at in range(start, end, _AT_ONCE):
                    data = os.pread(fd, min(_AT_ONCE, end - at), at)
                    yield data[: len(data) // PAGE * PAGE]
        finally:
            os.close(fd)


@cache
def device() -> int:
    """The kernel's own tmpfs."""
    with open(os.memfd_create("device"), "rb") as file:
        return os.fstat(file.fileno()).st_dev
