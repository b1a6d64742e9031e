"""Sources of pages on this host: a page store, and the pages-*.img of image directories."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Iterator
from mmap import ACCESS_COPY, mmap
from pathlib import Path

from runtime.memory.lazy.layout import PAGE
from runtime.memory.lazy.pages import Piece
from runtime.memory.served_pages import ServedPages

#: pages of one pages-*.img: addresses from start to end, number of the file, offset of start in it
Extent = tuple[int, int, int, int]
ZEROS = -1


class NoSuchPage(Exception):
    """A page is to be filled whose content is nowhere."""


class LocalPages:
    """Nothing of them is ABSENT."""

    streaming = False

    def want(self, space: int, start: int, end: int) -> None:
        """Nobody calls it."""

    def refresh(self) -> None:
        """Nothing has changed."""

    def resume(self) -> None:
        """Nothing is another process's."""

    def patience(self) -> None:
        """Nothing is waited for."""

    def complete(self) -> None:
        """Nobody minds."""

    def descriptors(self) -> list[tuple[int, int]]:
        """Nothing has to be waited for."""
        return []

    def arrived(self) -> list[tuple[int, int, int]]:
        """Nothing arrives."""
        return []

    def discard(self, space: int, start: int, end: int) -> None:
        """Files of images stay whole."""


class StorePages(LocalPages):
    """Pages of the store in *directory*."""

    def __init__(self, directory: Path) -> None:
        self._store = ServedPages(directory)

    def pieces(self, space: int, start: int, end: int) -> Iterator[Piece]:
        """See Pages. Raises NoSuchPage."""
        for low, high, source in self._store.pieces(space, start, end):
            if source is not None and source < PAGE:
                raise NoSuchPage(f"page {low:#x} of space {space} is not in the page store")
            yield Piece(low, high, source)

    def discard(self, space: int, start: int, end: int) -> None:
        """Their memory is given back."""
        self._store.discard(space, start, end)

    def refresh(self) -> None:
        """See what is there now."""
        self._store.refresh()


class ImagePages(LocalPages):
    """Pages of image files, which stay mapped. A file that shrinks meanwhile is our death."""

    def __init__(self, files: list[str], spaces: dict[int, list[Extent]]) -> None:
        self._maps = [_mapped(Path(path)) for path in files]
        self._bases = [
            ctypes.addressof(ctypes.c_char.from_buffer(each)) if each else 0 for each in self._maps
        ]
        self._extents = spaces
        self._starts = {space: [each[0] for each in found] for space, found in spaces.items()}

    def pieces(self, space: int, start: int, end: int) -> Iterator[Piece]:
        """See Pages. Raises NoSuchPage."""
        extents = self._extents.get(space, [])
        at = max(bisect_right(self._starts.get(space, []), start) - 1, 0)
        while start < end:
            if at >= len(extents) or not extents[at][0] <= start:
                raise NoSuchPage(f"page {start:#x} of process {space} is in no image")
            low, high, file, offset = extents[at]
            at += 1
            if high <= start:
                continue
            source = None if file == ZEROS else self._bases[file] + offset + start - low
            yield Piece(start, min(end, high), source)
            start = high


def _mapped(path: Path) -> mmap | None:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return None
        # Private and never written to: only so that it has an address for us.
        return mmap(file.fileno(), 0, access=ACCESS_COPY)
