"""Image directories as a source of pages: what is lazy in them, and in which file it lies.

Only the directory that is restored says what is lazy (PE_LAZY); the pages may lie in it or in any
of its parents (criu/pagemap.c). Read by the owner: the server is given file names and offsets.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from criu_rpc.errors import BadImages
from criu_rpc.memory_images import PE_LAZY, PE_PARENT, PE_PRESENT, read_pagemap
from runtime.memory.lazy.layout import PAGE
from runtime.memory.lazy.local_pages import Extent

Run = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LazyImages:
    """Per process, by its pid in the images: runs of lazy pages, and where each of them lies."""

    files: list[str]
    extents: dict[int, list[Extent]]

    @property
    def plan(self) -> dict[str, Any]:
        """For LazyPages.start."""
        return {"kind": "images", "files": self.files, "spaces": self.extents}

    @property
    def expected(self) -> dict[int, int]:
        """For LazyPages.start: a space for each process, of the same number."""
        return {pid: pid for pid in self.extents}

    @property
    def lazy(self) -> dict[int, list[Run]]:
        """For LazyPages.load."""
        return {pid: [each[:2] for each in extents] for pid, extents in self.extents.items()}


def read_images(directory: Path) -> LazyImages:
    """What a lazy restore of *directory* leaves to a server.

    Raises BadImages, for pages that are in no image too; OSError.
    """
    files: dict[str, int] = {}
    extents = {}
    for path in sorted(directory.glob("pagemap-*.img")):
        if match := re.fullmatch(r"pagemap-(\d+)\.img", path.name):
            extents[int(match[1])] = _joined(Pagemap(path, files).lazy())
    if not extents:
        raise BadImages(directory, "has no image of a process's memory")
    return LazyImages(list(files), extents)


class Pagemap:
    """One pagemap-PID.img and those below it in the chain."""

    def __init__(self, path: Path, files: dict[str, int]) -> None:
        self.path = path
        self._files = files
        pages_id, self._entries = read_pagemap(path)
        self._starts = [entry.address for entry in self._entries]
        self.file = str((path.parent / f"pages-{pages_id}.img").absolute())
        self._offsets = []
        offset = 0
        for entry in self._entries:
            self._offsets.append(offset)
            offset += entry.pages * PAGE if entry.flags & PE_PRESENT else 0
        self._below: Pagemap | None = None

    def lazy(self) -> Iterator[Extent]:
        """Where the lazy pages lie."""
        for start, end in self.lazy_runs():
            yield from self.find(start, end)

    def eager(self) -> Iterator[Extent]:
        """Where those lie that CRIU reads by itself, even in a lazy restore."""
        for entry in self._entries:
            if not entry.flags & PE_LAZY:
                yield from self.find(entry.address, entry.end)

    def lazy_runs(self) -> list[Run]:
        """What is lazy, wherever it lies."""
        return [(each.address, each.end) for each in self._entries if each.flags & PE_LAZY]

    @property
    def present_bytes(self) -> int:
        """How much of it lies in the pages image beside it, which is `file`."""
        return sum(each.pages * PAGE for each in self._entries if each.flags & PE_PRESENT)

    def find(self, start: int, end: int) -> Iterator[Extent]:
        """Where the pages from *start* to *end* lie."""
        while start < end:
            at = bisect_right(self._starts, start) - 1
            if at < 0 or self._entries[at].end <= start:
                raise BadImages(self.path, f"has page {start:#x} in no image of its chain")
            entry, until = self._entries[at], min(end, self._entries[at].end)
            if entry.flags & PE_PRESENT:
                file = self._files.setdefault(self.file, len(self._files))
                yield start, until, file, self._offsets[at] + start - entry.address
            else:
                yield from self._parent(start, entry.flags).find(start, until)
            start = until

    def _parent(self, address: int, flags: int) -> Pagemap:
        if self._below is None:
            path = self.path.parent / "parent" / self.path.name
            if not path.exists():
                where = "its parent" if flags & PE_PARENT else "a page server"
                raise BadImages(
                    self.path, f"has left page {address:#x} to {where}, which is not here"
                )
            self._below = Pagemap(path, self._files)
        return self._below


def _joined(extents: Iterator[Extent]) -> list[Extent]:
    """Extents that follow each other in address and file, as one."""
    found: list[Extent] = []
    for start, end, file, offset in extents:
        if found:
            low, high, before, first = found[-1]
            if high == start and before == file and first + high - low == offset:
                found[-1] = low, end, file, first
                continue
        found.append((start, end, file, offset))
    return found
