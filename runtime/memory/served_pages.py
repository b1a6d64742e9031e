"""A page store as every process that opens it sees it: what is where, and what was served already.

What a call has done is in shared memory, under a lock between processes. One that was killed in the
middle of `discard` leaves it done in part: call it again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from runtime.memory.contents import PAGE_SIZE
from runtime.memory.leaves import SPACE_LIMIT, check_range, parts_among
from runtime.memory.page_table import FIRST_SLOT, MISSING, SERVED, ZERO, PageTable
from runtime.memory.runs import Run
from runtime.memory.slots import SlotFile, extents
from runtime.memory.store_errors import CorruptStore
from runtime.memory.store_lock import StoreLock

Stretch = tuple[int, int, int]


class Piece(NamedTuple):
    """Pages *start* to *end* of an address space, all of one kind.

    source: None for zero pages; MISSING (0), not here; SERVED (2), discarded since; else where the
    contents of all of it lie side by side in our own memory, ready for UFFDIO_COPY.
    """

    start: int
    end: int
    source: int | None


class ServedPages:
    """Context manager. Threads may share it; none may look at `pieces` of what another drops."""

    def __init__(self, directory: Path, slot_limit: int | None = None) -> None:
        """Open the store in *directory*; with *slot_limit*, make it there.

        Raises OSError, CorruptStore.
        """
        self.directory = directory
        self._table = PageTable(directory, slot_limit)
        self._slots = SlotFile(directory, slot_limit)
        limit = self._table.slot_limit
        if (self._slots.limit, self._slots.pages.size) != (limit, limit * PAGE_SIZE):
            raise CorruptStore(directory, "its pages are cut short")
        #: `with` it: nobody else changes the store meanwhile, no thread and no process
        self.changing = StoreLock(self._table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; they stay, and so does what is in them."""
        self._table.close()
        self._slots.close()

    def refresh(self) -> None:
        """See what others have made or dropped; all that looks does so itself."""
        self._table.refresh()

    @property
    def spaces(self) -> list[int]:
        """The address spaces that have pages here."""
        self._table.refresh()
        return [space for space in self._table.spaces if space < SPACE_LIMIT]

    @property
    def size_bytes(self) -> int:
        """What the tables and the contents in use take of memory or disk."""
        self._table.refresh()
        return self._table.size_bytes + self._slots.used_bytes

    def digest(self, space: int, runs: Iterable[Run]) -> bytes:
        """See `Hashes.digest`; the source reckons its own from a `HashTable`.

        Every page was hashed here as it came, so where both digests are equal, all pages of *runs*
        are here and are what the source read: that is the check of all that was sent, end to end.
        """
        with self.changing:
            return self._table.digest(space, runs)

    def known_runs(self, space: int) -> list[Run]:
        """The runs of *space* that are here."""
        with self.changing:
            return self._table.known_runs(space)

    def pieces(self, space: int, start: int, end: int) -> Iterator[Piece]:
        """*start* to *end* in the largest pieces that are of one kind, without gaps.

        Addresses hold until the page is put here anew or discarded by whatever address has it.
        """
        check_range(space, start, end)
        self._table.refresh()
        return map(self._piece, _merged(self._stretches(space, start, end)))

    def _piece(self, stretch: Stretch) -> Piece:
        start, end, word = stretch
        if word >= FIRST_SLOT:
            return Piece(start, end, self._slots.address + word * PAGE_SIZE)
        return Piece(start, end, None if word == ZERO else word)

    def _stretches(self, space: int, start: int, end: int) -> Iterator[Stretch]:
        leaves = self._table.leaves(space)
        for part in parts_among(leaves, start, end):
            if start < part.start:
                yield start, part.start, MISSING
            words = self._table.slots(leaves[part.number])[part.first : part.last].tolist()
            for first, last, word in stretches(words):
                yield part.start + first * PAGE_SIZE, part.start + last * PAGE_SIZE, word
            start = part.end
        if start < end:
            yield start, end, MISSING

    def discard(self, space: int, start: int, end: int) -> None:
        """*start* to *end* are served: what is there becomes SERVED, and its memory is given back.

        Contents that another address has too stay until that one is discarded as well.
        """
        check_range(space, start, end)
        with self.changing:
            leaves = self._table.leaves(space)
            for part in parts_among(leaves, start, end):
                slots, _ = self._table.part(leaves[part.number], part)
                before = slots.tolist()
                slots[:] = memoryview(array("I", [SERVED if word else MISSING for word in before]))
                unused = self._slots.leave([word for word in before if word >= FIRST_SLOT])
                # Not to be given out again: the index of a writer may still lead there.
                self._slots.punch(extents(sorted(unused)))


def stretches(words: list[int]) -> Iterator[Stretch]:
    """Words of a page table as (first, last, word of the first): contiguous slots, or one kind."""
    count, word = len(words), words[0]
    if word >= FIRST_SLOT:
        alike = words[-1] == word + count - 1 and words == list(range(word, word + count))
    else:
        alike = words == [word] * count
    if alike:
        yield 0, count, word
        return
    first = 0
    for page in range(1, count + 1):
        if page == count or words[page] != _next(word, page - first):
            yield first, page, word
            if page < count:
                first, word = page, words[page]


def _next(word: int, pages: int) -> int:
    return word + pages if word >= FIRST_SLOT else word


def _merged(pieces: Iterator[Stretch]) -> Iterator[Stretch]:
    begun: Stretch | None = None
    for start, end, word in pieces:
        if begun and word == _next(begun[2], (begun[1] - begun[0]) // PAGE_SIZE):
            begun = (begun[0], end, begun[2])
        else:
            if begun:
                yield begun
            begun = (start, end, word)
    if begun:
        yield begun
