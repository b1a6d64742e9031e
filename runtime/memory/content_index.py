"""Where a writer has which content, and the decision which slot each page gets.

A dictionary hash -> slot in the writer's own memory, about 160 bytes a page; whoever writes next
reckons it anew from the page table. A slot that a server has given back meanwhile has no references
left and is not given out again, so that one look tells whether what the index says still holds.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from runtime.memory.contents import NO_HASH, ZERO_HASH, split_hashes
from runtime.memory.page_table import FIRST_SLOT, MISSING, SERVED, ZERO, PageTable
from runtime.memory.slots import MORE, SlotFile, each, extents


class Plan(NamedTuple):
    """What becomes of some pages that follow each other."""

    slots: list[int]
    hashes: list[bytes]
    #: (page, slot, count): contents of pages to be written to slots side by side
    writes: list[tuple[int, int, int]]
    #: (slot, hash) that pages no longer use
    left: list[tuple[int, bytes]]
    #: pages whose content is nowhere
    unknown: list[int]


class ContentIndex:
    """Changes references in *slots*, never the table (but in `recover`)."""

    def __init__(self, slots: SlotFile) -> None:
        self._slots = slots
        self._index: dict[bytes, int] = {}

    def known(self) -> bytes:
        """The hash of every content that is there."""
        references = self._slots.references
        return b"".join(content for content, slot in self._index.items() if references[slot])

    def recover(self, table: PageTable) -> None:
        """Reckon everything from *table*; pages there without a hash were not finished."""
        index = {ZERO_HASH: ZERO}
        uses: Counter[int] = Counter()
        for space in table.spaces:
            for leaf in table.leaves(space).values():
                words = table.slots(leaf)
                hashes = split_hashes(table.hashes_in(leaf))
                kept = [w if h != NO_HASH else MISSING for w, h in zip(words, hashes, strict=True)]
                words[:] = memoryview(array("I", kept))
                uses.update(kept)
                index.update((h, w) for w, h in zip(kept, hashes, strict=True) if w >= FIRST_SLOT)
        self._slots.recover(uses)
        self._index = index

    def plan(
        self, hashes: list[bytes], before: list[int], known: memoryview, *, writable: bool
    ) -> Plan:
        """Pages are to have these contents where *before* and *known* are the slots and hashes now.

        writable: the contents are at hand, so that slots are taken for those that are nowhere; else
        such pages stay what they were. Raises StoreFull; slots are lost then until `recover`.
        """
        contents = set(hashes)
        if not any(before):
            if contents == {ZERO_HASH}:
                return Plan([ZERO] * len(hashes), hashes, [], [], [])
            if writable and self._are_new(contents, len(hashes)):
                return self._plan_new(hashes)
        if not writable:
            return self._plan_each(hashes, before, split_hashes(known), None)
        reserved = each(self._slots.reserve(self._lacking(contents)))
        plan = self._plan_each(hashes, before, split_hashes(known), reserved)
        self._slots.give_back(extents(list(reserved)))
        return plan

    def rewrite(self, slot: int, was: bytes, content: bytes) -> bool:
        """Whether a page may have new content in its own slot, as nobody else has the one or the
        other; it is known to be there then.
        """
        index, references = self._index, self._slots.references
        there = index.get(content)
        if references[slot] != 1 or (there is not None and references[there]):
            return False
        if index.get(was) == slot:
            del index[was]
        index[content] = slot
        return True

    def leave(self, left: list[tuple[int, bytes]]) -> None:
        """Pages have gone from these slots, which had these contents: free what nobody uses."""
        unused = set(self._slots.leave([slot for slot, _ in left if slot >= FIRST_SLOT]))
        if not unused:
            return
        for slot, content in left:
            if slot in unused and self._index.get(content) == slot:
                del self._index[content]
        self._slots.free(list(unused))

    def _are_new(self, contents: set[bytes], pages: int) -> bool:
        return len(contents) == pages and self._index.keys().isdisjoint(contents)

    def _lacking(self, contents: set[bytes]) -> int:
        """How many slots they take at most."""
        references, index = self._slots.references, self._index
        return sum(h not in index or not references[index[h]] for h in contents)

    def _plan_new(self, hashes: list[bytes]) -> Plan:
        plan = Plan([], hashes, [], [], [])
        for start, end in self._slots.reserve(len(hashes)):
            self._slots.references[start:end] = b"\1" * (end - start)
            plan.writes.append((len(plan.slots), start, end - start))
            plan.slots.extend(range(start, end))
        self._index.update(zip(hashes, plan.slots, strict=True))
        return plan

    def _plan_each(
        self,
        hashes: list[bytes],
        before: list[int],
        known: list[bytes],
        fresh: Iterator[int] | None,
    ) -> Plan:
        plan = Plan([], list(hashes), [], [], [])
        for page, (content, slot, was) in enumerate(zip(hashes, before, known, strict=True)):
            target = self._share(content, slot, was)
            if target == MISSING:
                if fresh is None:
                    plan.unknown.append(page)
                    plan.hashes[page], target = was, slot
                else:
                    target = self._take(content, slot, was, fresh)
                    _add(plan.writes, page, target)
            if target != slot:
                plan.left.append((slot, was))
            plan.slots.append(target)
        return plan

    def _take(self, content: bytes, slot: int, was: bytes, fresh: Iterator[int]) -> int:
        """The slot to write that content to: its own where nobody else has it, else a fresh one."""
        if self._slots.references[slot] == 1:
            if self._index.get(was) == slot:
                del self._index[was]
        else:
            slot = next(fresh)
            self._slots.references[slot] = 1
        self._index[content] = slot
        return slot

    def _share(self, content: bytes, slot: int, was: bytes) -> int:
        """The slot with that content, used once more; MISSING where there is none."""
        if content == was and slot not in (MISSING, SERVED):
            return slot
        target = self._index.get(content, MISSING)
        uses = self._slots.references[target]
        if target == MISSING or not uses:
            return MISSING
        self._slots.references[target] = MORE[uses]
        return target


def _add(writes: list[tuple[int, int, int]], page: int, slot: int) -> None:
    if writes:
        first, begin, count = writes[-1]
        if (page, slot) == (first + count, begin + count):
            writes[-1] = (first, begin, count + 1)
            return
    writes.append((page, slot, 1))
