"""The slots of a store: pages of contents in one sparse file, and how many addresses use each.

Two files. `pages`: one page each. `references`: one byte each, how many entries of the page table
lead there; 255 means "many" and stays, so that such a slot is kept until the end. A count is raised
before the table leads there and lowered after it does not, so that whoever dies in between leaves
one too high: room lost, nothing given away that is in use.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise
from pathlib import Path

from runtime.memory.contents import PAGE_SIZE
from runtime.memory.page_table import FIRST_SLOT
from runtime.memory.punch import punch_hole
from runtime.memory.shared_file import SharedFile
from runtime.memory.store_errors import CorruptStore, StoreFull

MANY = 255
MORE = bytes(min(count + 1, MANY) for count in range(256))
LESS = bytes(count - 1 if 0 < count < MANY else count for count in range(256))

# Freed slots in longer runs give their memory back at once; shorter ones are used again.
_PUNCH_SLOTS = 16

# Free pieces that are looked through for one that is long enough
_FEW = 32

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

Extent = tuple[int, int]


class SlotFile:
    """references: writable bytes, indexed by slot."""

    def __init__(self, directory: Path, slot_limit: int | None = None) -> None:
        """Open the slots in *directory*; with *slot_limit*, make them there."""
        self._directory = directory
        create = slot_limit is not None
        size = PAGE_SIZE * slot_limit if slot_limit is not None else None
        self.pages = SharedFile(directory / "pages", size)
        self._references = SharedFile(directory / "references", slot_limit)
        self.references = self._references.view
        self.limit = len(self.references)
        # Where our mapping of the pages begins: it stays there until it is closed.
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.pages.view))
        if create:
            self._ensure(FIRST_SLOT)
            self.references[:FIRST_SLOT] = bytes([MANY]) * FIRST_SLOT
        self._next = FIRST_SLOT
        self._free: list[Extent] = []
        # How many of them there may be before neighbours are looked for among them
        self._crowded = _FEW

    @property
    def used_bytes(self) -> int:
        """What the contents take of memory or disk."""
        return os.fstat(self.pages.fd).st_blocks * 512

    def recover(self, uses: Mapping[int, int]) -> None:
        """Each slot is used so often, and the others not at all; give their memory back.

        Raises CorruptStore for a slot that cannot be.
        """
        used = sorted(slot for slot in uses if slot >= FIRST_SLOT)
        end = used[-1] + 1 if used else FIRST_SLOT
        if end > self.limit:
            raise CorruptStore(self._directory, "its table leads beyond its pages")
        counts = bytearray(end)
        counts[:FIRST_SLOT] = bytes([MANY]) * FIRST_SLOT
        for slot in used:
            counts[slot] = min(uses[slot], MANY)
        self._ensure(end)
        self.references[:end] = counts
        gaps = pairwise([FIRST_SLOT - 1, *used])
        self._free = [(one + 1, other) for one, other in gaps if other > one + 1]
        self._next = end
        self.punch([*self._free, (end, self.limit)])

    def reserve(self, count: int) -> list[Extent]:
        """*count* unused slots, in one piece if possible, as extents (start, end).

        Raises StoreFull; then none is taken.
        """
        for at in range(min(len(self._free), _FEW)):
            start, end = self._free[at]
            if end - start >= count:
                self._free[at : at + 1] = [(start + count, end)] if end - start > count else []
                return [(start, start + count)]
        if self._next + count <= self.limit:
            self._ensure(self._next + count)
            self._next += count
            return [(self._next - count, self._next)]
        return self._fragments(count)

    def _fragments(self, count: int) -> list[Extent]:
        taken: list[Extent] = []
        while count and (self._free or self._next < self.limit):
            if self._free:
                start, end = self._free.pop()
            else:
                start, end = self._next, self.limit
                self._next = self.limit
                self._ensure(end)
            taken.append((start, min(end, start + count)))
            if end - start > count:
                self._free.append((start + count, end))
            count -= min(count, end - start)
        if count:
            self._free += taken
            why = f"all of its {self.limit * PAGE_SIZE >> 20} MiB are in use"
            raise StoreFull(self._directory, why)
        return taken

    def give_back(self, extents: Iterable[Extent]) -> None:
        """Slots of `reserve` that were not written to."""
        self._add_free(extents)

    def write(self, slot: int, pages: memoryview) -> None:
        """Put *pages* into the slots from *slot* on. Raises StoreFull, OSError.

        Not through the mapping: a fresh page costs a fault there, and a full filesystem SIGBUS.
        """
        at = slot * PAGE_SIZE
        while pages:
            try:
                written = os.pwrite(self.pages.fd, pages, at)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                raise StoreFull(self._directory, str(error.strerror)) from error
            at, pages = at + written, pages[written:]

    def read(self, start: int, end: int) -> memoryview:
        """The contents of the slots *start* to *end*, in place."""
        return self.pages.view[start * PAGE_SIZE : end * PAGE_SIZE]

    def leave(self, slots: list[int]) -> list[int]:
        """One address each has left *slots*; returns those that nobody uses now."""
        unused: list[int] = []
        for start, end in extents(slots):
            before = bytes(self.references[start:end])
            self.references[start:end] = after = before.translate(LESS)
            if 0 in after:
                unused += [start + at for at, left in enumerate(after) if not left and before[at]]
        return unused

    def punch(self, unused: Iterable[Extent], shortest: int = 1) -> None:
        """Give the memory of these slots back."""
        for start, end in unused:
            if end - start >= shortest:
                punch_hole(self.pages.fd, start * PAGE_SIZE, (end - start) * PAGE_SIZE)

    def free(self, unused: list[int]) -> None:
        """These may be given out again."""
        runs = list(extents(sorted(unused)))
        self.punch(runs, _PUNCH_SLOTS)
        self._add_free(runs)

    def _add_free(self, unused: Iterable[Extent]) -> None:
        self._free += unused
        if len(self._free) > self._crowded:
            self._free = list(_merged(sorted(self._free)))
            self._crowded = 2 * len(self._free) + _FEW

    def _ensure(self, end: int) -> None:
        try:
            self._references.ensure(end)
        except OSError as error:
            raise StoreFull(self._directory, str(error.strerror)) from error

    def close(self) -> None:
        self.pages.close()
        self._references.close()


def grow_slots(directory: Path, slot_limit: int) -> None:
    """Have room for so many slots in files that nobody has open."""
    os.truncate(directory / "pages", slot_limit * PAGE_SIZE)
    os.truncate(directory / "references", slot_limit)


def extents(slots: list[int]) -> Iterator[Extent]:
    """*slots*, in their order, as pieces that rise by one."""
    if not slots:
        return
    start, count = slots[0], len(slots)
    if slots[-1] == start + count - 1 and slots == list(range(start, start + count)):
        yield start, start + count
        return
    end = start
    for slot in slots:
        if slot != end:
            yield start, end
            start = slot
        end = slot + 1
    yield start, end


def _merged(pieces: Iterable[Extent]) -> Iterator[Extent]:
    begun: Extent | None = None
    for start, end in pieces:
        if begun and begun[1] == start:
            begun = (begun[0], end)
        else:
            if begun:
                yield begun
            begun = (start, end)
    if begun:
        yield begun


def each(pieces: Iterable[Extent]) -> Iterator[int]:
    """The slots of extents one by one."""
    return chain.from_iterable(range(start, end) for start, end in pieces)
