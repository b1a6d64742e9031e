"""The images that say what a process's memory is: pagemap-*.img and mm-*.img.

A pagemap lists runs of pages by address; those with PE_PRESENT lie in its pages-*.img, in the order
of the list. images/pagemap.proto, images/vma.proto, criu/include/{image,pagemap,vma}.h.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from criu_rpc import proto
from criu_rpc.errors import BadImages

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

#: flags of a pagemap's entry: in the parent image directory, left to a lazy-pages server, in here
PE_PARENT, PE_LAZY, PE_PRESENT = 1, 2, 4

# image.h: what kind of mapping it is, by VmaEntry.status
VMA_AREA_REGULAR = 1 << 0
VMA_AREA_VSYSCALL = 1 << 2
VMA_AREA_VDSO = 1 << 3
VMA_FILE_PRIVATE = 1 << 6
VMA_ANON_PRIVATE = 1 << 9
VMA_AREA_VVAR = 1 << 12
VMA_AREA_AIORING = 1 << 13
VMA_AREA_GUARD = 1 << 16
# mmap(2), by VmaEntry.flags
_MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_DROPPABLE = 0x02, 0x20, 0x08
_MAP_LOCKED, _MAP_NORESERVE, _MAP_HUGETLB = 0x2000, 0x4000, 0x40000
_PROT_WRITE = 0x2

_COMMON = 0x54564319
_PAGEMAP = struct.pack("<II", _COMMON, 0x56084025)
_MM = struct.pack("<II", _COMMON, 0x57492820)
_SIZE = struct.Struct("<I")
_U32_MAX = (1 << 32) - 1


class PagemapEntry(NamedTuple):
    """A run of pages."""

    address: int
    pages: int
    flags: int

    @property
    def end(self) -> int:
        return self.address + self.pages * PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Vma:
    """One mapping, of mm-*.img."""

    start: int
    end: int
    flags: int
    status: int

    @property
    def by_criu(self) -> bool:
        """CRIU dumps the whole of it, whatever its pagemap says (mem.c: should_dump_entire_vma)."""
        return bool(self.status & (VMA_AREA_VDSO | VMA_AREA_AIORING))

    @property
    def private(self) -> bool:
        """Whether its pages are looked for in the pagemap (vma.h: vma_area_is_private)."""
        kinds = VMA_FILE_PRIVATE | VMA_ANON_PRIVATE
        others = VMA_AREA_VVAR | VMA_AREA_VSYSCALL | VMA_AREA_GUARD
        known = self.status & VMA_AREA_REGULAR and self.status & kinds
        return bool(known) and not self.status & others and not self.flags & _MAP_DROPPABLE

    @property
    def lazy(self) -> bool:
        """Whether a lazy restore leaves its pages to a server (vma.h: vma_entry_can_be_lazy)."""
        wanted = _MAP_PRIVATE | _MAP_ANONYMOUS
        others = VMA_AREA_VDSO | VMA_AREA_VVAR | VMA_AREA_VSYSCALL
        return (
            self.flags & wanted == wanted
            and not self.flags & (_MAP_LOCKED | _MAP_HUGETLB)
            and not self.status & others
        )


def load() -> None:
    """Have the messages of these images loaded: 3 ms, for whom each counts later."""
    proto.pagemap()
    proto.mm()


def read_pagemap(path: Path) -> tuple[int, list[PagemapEntry]]:
    """The number of the pages image, and the entries. Raises BadImages."""
    messages = proto.pagemap()
    with _parsing(path):
        head, *raw = _messages(path, _PAGEMAP)
        pages_id = messages.pagemap_head.FromString(head).pages_id
        entries = [_entry(messages.pagemap_entry.FromString(each)) for each in raw]
    return pages_id, entries


def write_pagemap(path: Path, pages_id: int, entries: Iterable[PagemapEntry]) -> None:
    """Write *entries* (in ascending order) in place of what is at *path*."""
    messages = proto.pagemap()
    head = messages.pagemap_head(pages_id=pages_id)
    new = messages.pagemap_entry
    parts = [
        new(vaddr=address, compat_nr_pages=min(pages, _U32_MAX), nr_pages=pages, flags=flags)
        for address, pages, flags in entries
    ]
    raw = (each.SerializeToString() for each in (head, *parts))
    data = b"".join(_SIZE.pack(len(each)) + each for each in raw)
    path.write_bytes(_PAGEMAP + data)


def read_vmas(path: Path) -> list[Vma]:
    """The mappings of mm-*.img at *path*, ascending; guard regions come last, as CRIU has them."""
    return [Vma(each.start, each.end, each.flags, each.status) for each in _read_mm(path).vmas]


def add_guards(path: Path, guards: Iterable[tuple[int, int]]) -> None:
    """Append guard regions (madvise(2): MADV_GUARD_INSTALL) to mm-*.img at *path*."""
    mm = _read_mm(path)
    for start, end in guards:
        mm.vmas.add(
            start=start, end=end, pgoff=0, shmid=0, prot=0, flags=0, status=VMA_AREA_GUARD, fd=-1
        )
    _write_mm(path, mm)


def keep_from_counting(path: Path, least_bytes: int) -> None:
    """Make private mappings of that size that are not writable MAP_NORESERVE in mm-*.img."""
    mm = _read_mm(path)
    for vma in mm.vmas:
        reserved = vma.status & VMA_ANON_PRIVATE and not vma.prot & _PROT_WRITE
        if reserved and vma.end - vma.start >= least_bytes:
            vma.flags |= _MAP_NORESERVE
    _write_mm(path, mm)


def _read_mm(path: Path) -> Any:
    with _parsing(path):
        (raw,) = _messages(path, _MM)
        return proto.mm().mm_entry.FromString(raw)


def _write_mm(path: Path, mm: Any) -> None:
    data = mm.SerializeToString()
    path.write_bytes(_MM + _SIZE.pack(len(data)) + data)


def _entry(message: Any) -> PagemapEntry:
    flags = message.flags
    if not message.HasField("flags"):  # as CRIU before 3.0 wrote it
        flags = PE_PARENT if message.in_parent else PE_PRESENT
    return PagemapEntry(message.vaddr, message.nr_pages or message.compat_nr_pages, flags)


def _messages(path: Path, magic: bytes) -> Iterator[bytes]:
    data = path.read_bytes()
    if not data.startswith(magic):
        raise ValueError("it is not an image of this kind")
    at = len(magic)
    while at < len(data):
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size
        if at + size > len(data):
            raise ValueError("it ends too early")
        yield data[at : at + size]
        at += size


class _parsing:
    """Whatever parsing stumbles over is BadImages."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - lazy: 30 ms

        if isinstance(error, DecodeError | ValueError | struct.error):
            raise BadImages(self._path, f"is damaged: {error}") from error
