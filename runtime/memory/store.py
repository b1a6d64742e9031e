"""The page store of a destination: (address space, address) -> page, in shared memory files.

One process writes, any number look and serve. Pages of one content are kept once; zero pages take
no room. A page written again stays in its slot where nobody shares it, so that pages side by side
in the process lie side by side here. What a killed writer leaves is a store without the pages that
it was about to write; nothing else is lost. For 1 GiB the tables take 5 MiB beside the pages, and
the writer's index of contents 40 MiB of its own memory.
"""

from __future__ import annotations

import errno
import fcntl
from array import array
from collections.abc import Iterator
from itertools import chain, starmap
from pathlib import Path

from runtime.memory.content_index import ContentIndex, Plan
from runtime.memory.contents import (
    HASH_SIZE,
    NO_HASH,
    PAGE_SIZE,
    ZERO_HASH,
    PageHash,
    flat,
    split_hashes,
)
from runtime.memory.hash_table import HashTable, joined
from runtime.memory.leaves import (
    ADDRESS_LIMIT,
    LEAF_BYTES,
    LEAF_PAGES,
    SPACE_LIMIT,
    Part,
    check_range,
    parts,
    parts_among,
)
from runtime.memory.page_table import FIRST_SLOT, MISSING, SERVED, ZERO, grow_table
from runtime.memory.runs import Run
from runtime.memory.served_pages import Piece, ServedPages, stretches
from runtime.memory.slots import grow_slots
from runtime.memory.store_errors import MissingPages, StoreBusy, StoreFull

__all__ = [
    "MISSING",
    "SERVED",
    "ZERO_HASH",
    "HashTable",
    "MissingPages",
    "PageStore",
    "Piece",
    "StoreBusy",
    "StoreFull",
]


class PageStore(ServedPages):
    """Made by `create`, or by `open`; a context manager."""

    def __init__(self, directory: Path, slot_limit: int | None = None) -> None:
        super().__init__(directory, slot_limit)
        self._index: ContentIndex | None = None
        #: of the contents: its key is the store's own
        self.hash = PageHash(self._table.key)

    @classmethod
    def create(cls, directory: Path, capacity_bytes: int) -> PageStore:
        """Make a store in *directory* (there, mode 0700, without one) and be its writer.

        capacity_bytes: the most that contents may take; tables may take half of that in addition.
        Raises OSError.
        """
        store = cls(directory, _slot_limit(capacity_bytes))
        store._become_writer()
        return store

    @classmethod
    def open(cls, directory: Path, *, write: bool = False) -> PageStore:
        """The store in *directory*, to look and to serve; with *write*, as its writer.

        Raises OSError, CorruptStore, StoreBusy.
        """
        store = cls(directory)
        try:
            if write:
                store._become_writer()
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def adopt(cls, directory: Path, capacity_bytes: int) -> PageStore:
        """Go on with what another migration has left in *directory*, as a source of contents.

        Its address spaces are set aside: nothing is at any address, but every content that is still
        what its hash says (all are hashed for that) is known, until `drop_adopted`.
        Raises OSError, CorruptStore, StoreBusy.
        """
        store = cls.open(directory, write=True)
        limit = _slot_limit(capacity_bytes)
        if limit > store._table.slot_limit:
            store.close()
            grow_slots(directory, limit)
            grow_table(directory, limit)
            store = cls.open(directory, write=True)
        store._set_aside()
        return store

    def put(self, space: int, address: int, data: memoryview | bytes) -> None:
        """The pages from *address* on are *data*.

        Raises ValueError (what no address space can have), StoreFull: the pages of *data* are then
        missing or the new ones.
        """
        view = flat(data)
        self.put_runs(space, [(address, address + len(view))], view)

    def put_runs(self, space: int, runs: list[Run], data: memoryview | bytes) -> None:
        """The pages of *runs* are those of *data*, one run after the other. Raises as `put`."""
        view = flat(data)
        for start, end in runs:
            self._check(space, start, end)
        if sum(end - start for start, end in runs) != len(view):
            raise ValueError(f"{len(view)} bytes are not the pages of {len(runs)} runs")
        hashes = self.hash.each(view)
        at = 0
        with self.changing:
            for part in chain.from_iterable(starmap(parts, runs)):
                to = at + part.last - part.first
                pages = view[at * PAGE_SIZE : to * PAGE_SIZE]
                if to > at + 1 or not self._rewritten(space, part, hashes[at], pages):
                    self._place(space, part, hashes[at:to], pages)
                at = to

    def zero(self, space: int, address: int, pages: int) -> None:
        """*pages* pages from *address* on are zeros. Raises as `put`."""
        end = address + pages * PAGE_SIZE
        self._check(space, address, end)
        with self.changing:
            for part in parts(address, end):
                self._place(space, part, [ZERO_HASH] * (part.last - part.first))

    def same(self, space: int, address: int, hashes: bytes) -> list[Run]:
        """The pages from *address* on have these hashes; returns those whose content is not here.

        They stay what they were until they are put. Raises as `put`.
        """
        each_hash = split_hashes(hashes)
        end = address + len(each_hash) * PAGE_SIZE
        self._check(space, address, end)
        unknown: list[int] = []
        with self.changing:
            for part in parts(address, end):
                at = (part.start - address) // PAGE_SIZE
                wanted = each_hash[at : at + part.last - part.first]
                unknown += (
                    part.start + page * PAGE_SIZE for page in self._place(space, part, wanted)
                )
        return list(joined(unknown))

    def forget(self, space: int, start: int, end: int) -> None:
        """Nothing is at *start* to *end* any more."""
        check_range(space, start, end)
        self._forget(space, start, end)

    def drop(self, space: int) -> None:
        """The address space is gone."""
        self.forget(space, 0, ADDRESS_LIMIT)

    def drop_adopted(self) -> None:
        """What was adopted and is not used now is no source of contents any more.

        Before anything is served: what lies aside keeps its memory.
        """
        with self.changing:
            for space in self._table.spaces:
                if space >= SPACE_LIMIT:
                    self._forget(space, 0, ADDRESS_LIMIT)

    def known(self) -> bytes:
        """The hash of every content that is here, 16 bytes each."""
        return self._writer.known()

    def _forget(self, space: int, start: int, end: int) -> None:
        with self.changing:
            for part in parts_among(self._table.leaves(space), start, end):
                self._clear(space, part)

    def _set_aside(self) -> None:
        with self.changing:
            for space in self.spaces:
                for number in self._table.leaves(space):
                    for run in list(joined(self._damaged(space, number))):
                        self._forget(space, *run)
                self._table.rename(space, max(SPACE_LIMIT, self._table.spaces[-1] + 1))
            self._hash_anew(PageHash())

    def _hash_anew(self, new: PageHash) -> None:
        """Another source knows the former key, and could have made pages of one hash by it."""
        for space in self._table.spaces:
            for leaf in self._table.leaves(space).values():
                hashes = self._table.hashes_in(leaf)
                for first, last, word in stretches(self._table.slots(leaf).tolist()):
                    if word >= FIRST_SLOT:
                        pages = self._slots.read(word, word + last - first)
                        hashes[first * HASH_SIZE : last * HASH_SIZE] = new.of(pages)
        self._table.key, self.hash = new.key, new
        self._writer.recover(self._table)

    def _damaged(self, space: int, number: int) -> Iterator[int]:
        """The addresses of pages of a leaf that are not what their hash says."""
        leaf = self._table.leaves(space)[number]
        hashes = bytes(self._table.hashes_in(leaf))
        for first, last, word in stretches(self._table.slots(leaf).tolist()):
            if word >= FIRST_SLOT:
                there = self.hash.each(self._slots.read(word, word + last - first))
            elif word == ZERO:
                there = [ZERO_HASH] * (last - first)
            else:
                continue
            for page, content in enumerate(there, first):
                if content != hashes[page * HASH_SIZE : (page + 1) * HASH_SIZE]:
                    yield number * LEAF_BYTES + page * PAGE_SIZE

    @property
    def _writer(self) -> ContentIndex:
        if self._index is None:
            raise PermissionError(errno.EPERM, "not opened to be written", str(self.directory))
        return self._index

    def _check(self, space: int, start: int, end: int) -> None:
        check_range(space, start, end)
        self._table.check_room(start, end)

    def _become_writer(self) -> None:
        try:
            fcntl.flock(self._slots.pages.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreBusy(self.directory) from None
        self._index = ContentIndex(self._slots)
        with self.changing:
            self._index.recover(self._table)

    def _place(
        self, space: int, part: Part, hashes: list[bytes], pages: memoryview | None = None
    ) -> list[int]:
        """Have the pages of *part* be what *hashes* says; returns those whose content is nowhere.

        pages: their contents; without them, only what is here already is used.
        """
        index = self._writer
        try:
            try:
                return self._placed(space, part, hashes, pages)
            except StoreFull:
                self.drop_adopted()
                index.recover(self._table)  # frees what servers have given back as well
                return self._placed(space, part, hashes, pages)
        except BaseException:
            index.recover(self._table)
            raise

    def _placed(
        self, space: int, part: Part, hashes: list[bytes], pages: memoryview | None
    ) -> list[int]:
        slots, known = self._table.part(self._table.leaf(space, part.number), part)
        before = slots.tolist()
        plan = self._writer.plan(hashes, before, known, writable=pages is not None)
        if plan.writes or plan.slots != before:
            known[:] = NO_HASH * len(before)  # these pages count again once all is in place
            if pages is not None:
                self._write(plan, pages)
            slots[:] = memoryview(array("I", plan.slots))
            known[:] = b"".join(plan.hashes)
            self._writer.leave(plan.left)
        return plan.unknown

    def _rewritten(self, space: int, part: Part, content: bytes, page: memoryview) -> bool:
        """Put one page in its own slot, as most that are written again can be; False: it cannot.

        What `_place` would do, at a fifth of the time: it counts under the freeze.
        """
        leaf = self._table.leaves(space).get(part.number)
        if leaf is None:
            return False
        slots, known = self._table.part(leaf, part)
        slot, was = slots[0], bytes(known)
        if content == was and slot not in (MISSING, SERVED):
            return True
        if slot < FIRST_SLOT or not self._writer.rewrite(slot, was, content):
            return False
        try:
            known[:] = NO_HASH  # it counts again once all is in place
            self._slots.write(slot, page)
        except BaseException:
            self._writer.recover(self._table)
            raise
        known[:] = content
        return True

    def _write(self, plan: Plan, pages: memoryview) -> None:
        for page, slot, count in plan.writes:
            self._slots.write(slot, pages[page * PAGE_SIZE : (page + count) * PAGE_SIZE])

    def _clear(self, space: int, part: Part) -> None:
        leaf = self._table.leaves(space)[part.number]
        slots, known = self._table.part(leaf, part)
        words = slots.tolist()
        contents = split_hashes(known) if max(words) >= FIRST_SLOT else ()
        left = list(zip(words, contents, strict=False))
        if part.last - part.first == LEAF_PAGES:
            self._table.drop(space, part.number)
        else:
            known[:] = NO_HASH * len(words)
            slots[:] = memoryview(bytes(4 * len(words))).cast("I")
        self._writer.leave(left)


def _slot_limit(capacity_bytes: int) -> int:
    return FIRST_SLOT + -(-capacity_bytes // PAGE_SIZE)
