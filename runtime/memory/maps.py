"""The mappings of an address space, as the kernel lists them (proc_pid_maps(5)).

Processes with ten thousands of mappings exist, and are looked at in every round: the list is parsed
as a whole, and smaps, which walks every page table, is read only where it must be.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from runtime.memory.runs import Run

# Private, of no file, and none of those that the kernel makes itself ([vdso], [vvar], [uprobes]).
_ANONYMOUS = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) [r-][w-][x-]p [0-9a-f]+ 00:00 0 *"
    rb"(?:\[heap\]|\[stack(?::\d+)?\]|\[anon:.*\])?$",
    re.M,
)
_HEADER = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) ")
_READ_BYTES = 1 << 20


class Mapping(NamedTuple):
    """One line: addresses in bytes; path as the kernel escapes it, "" for none, or a [name]."""

    start: int
    end: int
    read: bool
    write: bool
    execute: bool
    shared: bool
    offset: int
    device: str
    inode: int
    path: str

    @property
    def anonymous(self) -> bool:
        """Private memory of the process alone: heap, stacks, mmap without a file."""
        return (
            not self.shared
            and self.inode == 0
            and (not self.path or self.path in ("[heap]", "[stack]") or _named(self.path))
        )


def of_process(pid: int) -> list[Mapping]:
    """All mappings of *pid*, by address; none for a zombie. Raises OSError when it is gone."""
    fd = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return parse(text_of(fd))
    finally:
        os.close(fd)


def text_of(maps_fd: int) -> bytes:
    """The whole of an open maps or smaps file; empty when that address space is gone.

    The descriptor stays with the address space that the process had when it was opened.
    """
    os.lseek(maps_fd, 0, os.SEEK_SET)
    parts = []
    while part := os.read(maps_fd, _READ_BYTES):
        parts.append(part)
    return b"".join(parts)


def parse(text: bytes) -> list[Mapping]:
    """The mappings of a maps file's text."""
    return [_mapping(line) for line in os.fsdecode(text).splitlines()]


def anonymous_groups(text: bytes) -> list[list[Run]]:
    """Addresses of the mappings that are `anonymous`, one run a mapping: not coalesced.

    Those that no other mapping lies between are together, whether they touch or not.
    """
    groups: list[list[Run]] = []
    behind = -1
    for found in _ANONYMOUS.finditer(text):
        run = int(found[1], 16), int(found[2], 16)
        if found.start() == behind:
            groups[-1].append(run)
        else:
            groups.append([run])
        behind = found.end() + 1  # where the next line begins
    return groups


def locked_runs(smaps: bytes) -> list[Run]:
    """Addresses of the mappings locked into memory (mlock(2)), from the text of smaps."""
    locked, current = [], (0, 0)
    for line in smaps.splitlines():
        if found := addresses(line):
            current = found
        elif line.startswith(b"VmFlags:") and b" lo" in line:
            locked.append(current)
    return locked


def addresses(line: bytes) -> Run | None:
    """Of the mapping that *line* of smaps begins; None for a line about it."""
    header = _HEADER.match(line)
    return (int(header[1], 16), int(header[2], 16)) if header else None


def _mapping(line: str) -> Mapping:
    addresses, flags, offset, device, inode, *rest = line.split(None, 5)
    start, _, end = addresses.partition("-")
    return Mapping(
        int(start, 16),
        int(end, 16),
        flags[0] == "r",
        flags[1] == "w",
        flags[2] == "x",
        flags[3] == "s",
        int(offset, 16),
        device,
        int(inode),
        rest[0] if rest else "",
    )


def _named(path: str) -> bool:
    # prctl(PR_SET_VMA_ANON_NAME); [stack:TID] is what kernels before 4.5 call a thread's stack.
    return path.startswith(("[anon:", "[stack:"))
