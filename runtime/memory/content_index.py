"""Where a writer has which content, and the decision which slot each page gets.

A dictionary hash -> slot in the writer's own memory, about 190 bytes a page; whoever writes next
reckons it anew from the page table. A slot that a server has given back meanwhile has no references
left and is not given out again, so that one look tells whether what the index says still holds.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from runtime.memory.contents import NO_HASH, ZERO_HASH, split_hashes
from runtime.memory.page_table import FIRST_SLOT, MISSING, ZERO, PageTable
from runtime.memory.slots import MORE, SlotFile, each, extents


class Plan(NamedTuple):
    """What becomes of some pages that follow each other."""

    slots: list[int]
    hashes: list[bytes]
    #: (page, slot) whose contents are to be written
    writes: list[tuple[int, int]]
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

    def plan_writes(self, hashes: list[bytes], before: list[int], known: list[bytes]) -> Plan:
        """Pages of these contents are to be written where *before* and *known* are now.

        Slots are taken for them. Raises StoreFull; some may be lost then until `recover`.
        """
        references, index = self._slots.references, self._index
        found = [index.get(content, MISSING) for content in hashes]
        found = [slot if references[slot] else MISSING for slot in found]
        lacking = found.count(MISSING)
        if lacking == len(hashes) == len(set(hashes)) and not any(before):
            return self._plan_new(hashes)
        fresh = self._slots.reserve(lacking)
        plan, spare = self._plan_each(hashes, before, known, each(fresh))
        self._slots.give_back(extents(spare))
        return plan

    def plan_sharing(self, hashes: list[bytes], before: list[int], known: list[bytes]) -> Plan:
        """The same where the contents did not come along: what is nowhere stays as it was."""
        plan = Plan([], list(hashes), [], [], [])
        for page, (content, slot, was) in enumerate(zip(hashes, before, known, strict=True)):
            target = self._share(content, slot, was)
            if target == MISSING:
                plan.unknown.append(page)
                plan.hashes[page], target = was, slot
            elif target != slot:
                plan.left.append((slot, was))
            plan.slots.append(target)
        return plan

    def leave(self, left: list[tuple[int, bytes]]) -> None:
        """Pages have gone from these slots, which had these contents: free what nobody uses."""
        unused = set(self._slots.leave([slot for slot, _ in left if slot >= FIRST_SLOT]))
        for slot, content in left:
            if slot in unused and self._index.get(content) == slot:
                del self._index[content]
        self._slots.free(list(unused))

    def _plan_new(self, hashes: list[bytes]) -> Plan:
        slots: list[int] = []
        for start, end in self._slots.reserve(len(hashes)):
            self._slots.references[start:end] = bytes([1]) * (end - start)
            slots.extend(range(start, end))
        self._index.update(zip(hashes, slots, strict=True))
        return Plan(slots, hashes, list(enumerate(slots)), [], [])

    def _plan_each(
        self, hashes: list[bytes], before: list[int], known: list[bytes], fresh: Iterator[int]
    ) -> tuple[Plan, list[int]]:
        references = self._slots.references
        plan = Plan([], hashes, [], [], [])
        for page, (content, slot, was) in enumerate(zip(hashes, before, known, strict=True)):
            target = self._share(content, slot, was)
            if target == MISSING:
                if references[slot] == 1:
                    target = slot  # nobody else has it
                    if self._index.get(was) == slot:
                        del self._index[was]
                else:
                    target = next(fresh)
                    references[target] = 1
                self._index[content] = target
                plan.writes.append((page, target))
            if target != slot:
                plan.left.append((slot, was))
            plan.slots.append(target)
        return plan, list(fresh)

    def _share(self, content: bytes, slot: int, was: bytes) -> int:
        """The slot with that content, used once more; MISSING where there is none."""
        if content == was and slot != MISSING:
            return slot
        target = self._index.get(content, MISSING)
        uses = self._slots.references[target]
        if target == MISSING or not uses:
            return MISSING
        self._slots.references[target] = MORE[uses]
        return target
