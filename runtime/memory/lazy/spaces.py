"""One address space that is being filled: which of its pages are still missing, and whose they are.

An area is a range of addresses with one byte a page in shared memory: 1 while the page is missing.
Where mremap(2) has moved an area, its pages are still found under their old addresses (*source*).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from mmap import mmap
from typing import NamedTuple

from runtime.memory.lazy.layout import PAGE_SHIFT

# Areas are joined over gaps up to this: a byte a page is cheaper than an area.
_GAP = 4 << 20


class Area(NamedTuple):
    """A range; *source*: the address of its start at the source, *bytes_at*: of its first byte."""

    start: int
    end: int
    source: int
    bytes_at: int


class Space:
    """One userfaultfd, and which pages are missing behind it: that much is in shared memory."""

    def __init__(
        self,
        memory: mmap,
        areas: list[Area],
        *,
        source: int,
        pid: int,
        uffd: int = -1,
        pidfd: int = -1,
        forked: bool = False,
        hot: tuple[int, int] = (0, 0),
    ) -> None:
        self._memory = memory
        self.source = source
        self.pid = pid
        self.uffd = uffd
        self.pidfd = pidfd
        self.forked = forked
        self.hot = hot  # in shared memory: where, and how many runs
        self.areas = areas
        #: where the areas are written down: offset, capacity, which half
        self.slot = (0, 0, 0)

    @property
    def areas(self) -> list[Area]:
        """Ascending, disjoint."""
        return self._areas

    @areas.setter
    def areas(self, areas: list[Area]) -> None:
        self._areas = areas
        self.changed = True
        self._starts = [area.start for area in areas]

    def area(self, address: int) -> Area | None:
        """The area that *address* is in."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0 and address < self._areas[at].end:
            return self._areas[at]
        return None

    def missing(self, address: int) -> bool:
        """Whether the page at *address* is still to be filled."""
        area = self.area(address)
        if area is None:
            return False
        return self._memory[area.bytes_at + (address - area.start >> PAGE_SHIFT)] == 1

    def run(self, start: int, end: int) -> tuple[Area, int, int] | None:
        """The first run of missing pages in [start, end), within one area."""
        for area in self._overlapping(start, end):
            low, high = self._pages(area, start, end)
            first = self._memory.find(b"\x01", low, high)
            if first >= 0:
                found = bytes(self._memory[first : min(high, first + _LONGEST)]).find(b"\x00")
                last = min(high, first + _LONGEST) if found < 0 else first + found
                return area, self._address(area, first), self._address(area, last)
        return None

    def run_of(self, start: int, end: int) -> tuple[Area, int, int] | None:
        """The first run of missing pages among those that were at [start, end) at the source."""
        for area in sorted(self._areas, key=lambda each: each.source):
            shift = area.start - area.source
            low, high = max(start + shift, area.start), min(end + shift, area.end)
            run = self.run(low, high) if low < high else None
            if run is not None:
                return run
        return None

    def forget(self, start: int, end: int) -> int:
        """No page of [start, end) is missing any more; return how many were."""
        count = 0
        for area in self._overlapping(start, end):
            low, high = self._pages(area, start, end)
            count += self._memory[low:high].count(b"\x01")
            self._memory[low:high] = bytes(high - low)
        return count

    def left(self) -> int:
        """How many pages are missing."""
        return sum(self._bytes(area).count(b"\x01") for area in self._areas)

    def remapped(self, start: int, new: int, size: int) -> list[Area]:
        """The areas after mremap(2) has moved *size* bytes from *start* to *new*."""
        end, shift = start + size, new - start
        stay, gone = [], []
        for area in self._areas:
            gone += [_shifted(part, shift) for part in _cut(area, start, end)]
            stay += _cut(area, 0, start) + _cut(area, end, 1 << 63)
        # What was at the new place was unmapped by the kernel.
        stay = [part for a in stay for part in _cut(a, 0, new) + _cut(a, new + size, 1 << 63)]
        return sorted(stay + gone)

    def copied(self, at: int) -> list[Area]:
        """The areas of a forked child, with bytes of its own from offset *at* on."""
        areas = []
        for area in self._areas:
            data = self._bytes(area)
            self._memory[at : at + len(data)] = data
            areas.append(area._replace(bytes_at=at))
            at += len(data)
        return areas

    def pages(self) -> int:
        """The pages of all areas, missing or not."""
        return sum(area.end - area.start for area in self._areas) >> PAGE_SHIFT

    def _bytes(self, area: Area) -> bytes:
        return self._memory[area.bytes_at : area.bytes_at + (area.end - area.start >> PAGE_SHIFT)]

    def _overlapping(self, start: int, end: int) -> Iterator[Area]:
        at = max(bisect_right(self._starts, start) - 1, 0)
        while at < len(self._areas) and self._areas[at].start < end:
            if self._areas[at].end > start:
                yield self._areas[at]
            at += 1

    def _pages(self, area: Area, start: int, end: int) -> tuple[int, int]:
        low = max(start, area.start) - area.start >> PAGE_SHIFT
        high = min(end, area.end) - area.start >> PAGE_SHIFT
        return area.bytes_at + low, area.bytes_at + high

    def _address(self, area: Area, at: int) -> int:
        return area.start + (at - area.bytes_at << PAGE_SHIFT)


_LONGEST = 512  # pages of a run: 2 MiB


def _cut(area: Area, start: int, end: int) -> list[Area]:
    """The part of *area* that is in [start, end)."""
    low, high = max(area.start, start), min(area.end, end)
    if low >= high:
        return []
    off = low - area.start
    return [Area(low, high, area.source + off, area.bytes_at + (off >> PAGE_SHIFT))]


def _shifted(area: Area, by: int) -> Area:
    return area._replace(start=area.start + by, end=area.end + by)


def joined(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs (ascending) joined over small gaps: the areas to make of them."""
    found: list[tuple[int, int]] = []
    for start, end in runs:
        if found and start - found[-1][1] <= _GAP:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found
