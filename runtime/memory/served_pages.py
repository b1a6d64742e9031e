"""What a server of page faults does to a store: give back what was served, follow the process.

Everything is in shared memory, under the store's lock, and each call may be made again as a whole
by the process that follows one that died in it, before it makes any other.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator

from runtime.memory.contents import ZERO_HASH
from runtime.memory.leaves import Part, check_range, parts, parts_among
from runtime.memory.page_table import MISSING, MOVE_CURSOR, MOVE_EVENT, SERVED, ZERO
from runtime.memory.runs import Run
from runtime.memory.shared_pages import SharedPages, contents
from runtime.memory.slots import extents

_MOVED = 1 << 62
_COPIED = 1


class ServedPages(SharedPages):
    """The part of a PageStore that needs no index of contents."""

    def discard(self, space: int, start: int, end: int) -> None:
        """*start* to *end* are served: what is there becomes SERVED, and its memory is given back.

        Contents that another address has too stay until that one is discarded as well.
        """
        check_range(space, start, end)
        with self.changing():
            leaves = self._table.leaves(space)
            for part in parts_among(leaves, start, end):
                words, _ = self._words(space, part)
                served = [SERVED if word else MISSING for word in words]
                self._assign(space, part, served, None)

    def set_zero(self, space: int, start: int, end: int) -> None:
        """*start* to *end* read as zeros from now on, in the leaves that there are (`expect`)."""
        check_range(space, start, end)
        with self.changing():
            for part in parts_among(self._table.leaves(space), start, end):
                pages = part.last - part.first
                self._assign(space, part, [ZERO] * pages, ZERO_HASH * pages)

    def expect(self, space: int, runs: Iterable[Run]) -> None:
        """Make the leaves of *runs*: of a page without one, `set_zero` and `move` keep no trace.

        Raises StoreFull.
        """
        with self.changing():
            for start, end in runs:
                check_range(space, start, end)
                for part in parts(start, end):
                    self._table.leaf(space, part.number)

    def copy_space(self, space: int, new_space: int) -> None:
        """*new_space* was forked from *space*: it has the same pages. No content is copied.

        Leaves that *new_space* has already are left alone. Raises StoreFull.
        """
        check_range(new_space, 0, 0)
        with self.changing():
            table, there = self._table, self._table.leaves(new_space)
            for number, leaf in table.leaves(space).items():
                if number not in there:
                    copy = table.empty_leaf()
                    for extent in extents(contents(table.slots(leaf).tolist())):
                        self._slots.use(*extent)
                    table.slots(copy)[:] = table.slots(leaf)
                    table.hashes_in(copy)[:] = table.hashes_in(leaf)
                    table.publish(new_space, number, copy)

    def move(self, space: int, old: int, new: int, length: int, *, event: int) -> None:
        """*length* bytes of pages at *old* are now at *new* (mremap(2)); *old* reads as zeros.

        event: a number, from 1, that grows with each move of this store. What was done under it is
        not done twice, and what was begun is finished. A page at *old* whose leaf is not here is
        taken for zeros. Raises StoreFull.
        """
        check_range(space, old, old + length)
        check_range(space, new, new + length)
        with self.changing():
            table = self._table
            if event > table.word(MOVE_EVENT):
                table.set_word(MOVE_CURSOR, 0)
                table.set_word(MOVE_EVENT, event)
            elif event < table.word(MOVE_EVENT) or table.word(MOVE_CURSOR) == _MOVED:
                return
            for start, end in list(_steps(table.leaves(space), old, new, length)):
                if end > table.word(MOVE_CURSOR):
                    self._move(space, _part(old, start, end), _part(new, start, end), start)
                    table.set_word(MOVE_CURSOR, end)
            table.set_word(MOVE_CURSOR, _MOVED)

    def _move(self, space: int, old: Part, new: Part, at: int) -> None:
        """One step. A count of uses may stay too high when we die in it, never too low."""
        pages = old.last - old.first
        if self._table.word(MOVE_CURSOR) != at | _COPIED:
            words, hashes = self._words(space, old)
            for extent in extents(contents(words)):
                self._slots.use(*extent)
            self._assign(space, new, words, hashes)
            self._table.set_word(MOVE_CURSOR, at | _COPIED)
        if old.number in self._table.leaves(space):
            self._assign(space, old, [ZERO] * pages, ZERO_HASH * pages)

    def _words(self, space: int, part: Part) -> tuple[list[int], bytes]:
        """Words and hashes of a part; of zero pages where there is no leaf."""
        pages = part.last - part.first
        leaf = self._table.leaves(space).get(part.number)
        if leaf is None:
            return [ZERO] * pages, ZERO_HASH * pages
        slots, hashes = self._table.part(leaf, part)
        return slots.tolist(), bytes(hashes)

    def _assign(self, space: int, part: Part, words: list[int], hashes: bytes | None) -> None:
        """Overwrite a part, and give back the memory of what nobody has any more."""
        slots, known = self._table.part(self._table.leaf(space, part.number), part)
        before = contents(slots.tolist())
        slots[:] = memoryview(array("I", words))
        if hashes is not None:
            known[:] = hashes
        self._verified.discard((space, part.number))
        # Not to be used again: the index of a writer may still lead there.
        self._slots.punch(extents(sorted(self._slots.leave(before))))


def _part(base: int, start: int, end: int) -> Part:
    return next(parts(base + start, base + end))


def _steps(leaves: Collection[int], old: int, new: int, length: int) -> Iterator[Run]:
    """Offsets that cut a move so that each step is in one leaf on both sides, as far as any is."""
    points: set[Run] = set()
    for one, other in ((old, new), (new, old)):
        for part in parts_among(leaves, one, one + length):
            for cut in parts(part.start - one + other, part.end - one + other):
                points.add((cut.start - other, cut.end - other))
    yield from sorted(points)
