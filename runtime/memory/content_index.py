"""Where a writer has which content, and the decision which slot each page gets.

A dictionary hash -> slot in the writer's own memory, about 190 bytes a page; whoever writes next
reckons it anew from the page table. A slot that a server has given back meanwhile has no references
left and is not given out again, so that one look tells whether what the index says still holds.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import NamedTuple

from runtime.memory.contents import NO_HASH, ZERO_HASH, split_hashes
from runtime.memory.page_table import FIRST_SLOT, MISSING, ZERO, PageTable
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

    def plan_new(self, hashes: list[bytes]) -> Plan | None:
        """Pages of these contents are to be written where nothing is; None if any content is known.

        Raises StoreFull.
        """
        if len(set(hashes)) != len(hashes) or not self._index.keys().isdisjoint(hashes):
            return None
        plan = Plan([], hashes, [], [], [])
        for start, end in self._slots.reserve(len(hashes)):
            self._slots.references[start:end] = b"\1" * (end - start)
            plan.writes.append((len(plan.slots), start, end - start))
            plan.slots.extend(range(start, end))
        self._index.update(zip(hashes, plan.slots, strict=True))
        return plan

    def plan_writes(self, hashes: list[bytes], before: list[int], known: list[bytes]) -> Plan:
        """Pages of these contents are to be written where *before* and *known* are now.

        Slots are taken for them. Raises StoreFull; some may be lost then until `recover`.
        """
        fresh = each(self._slots.reserve(self._lacking(hashes)))
        references = self._slots.references
        plan = Plan([], hashes, [], [], [])
        for page, (content, slot, was) in enumerate(zip(hashes, before, known, strict=True)):
            target = self._share(content, slot, was)
            if target == MISSING:
                if references[slot] == 1:  # nobody else has it
                    target = slot
                    if self._index.get(was) == slot:
                        del self._index[was]
                else:
                    target = next(fresh)
                    references[target] = 1
                self._index[content] = target
                _add(plan.writes, page, target)
            if target != slot:
                plan.left.append((slot, was))
            plan.slots.append(target)
        self._slots.give_back(extents(list(fresh)))
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

    def _lacking(self, hashes: list[bytes]) -> int:
        """How many slots they take at most."""
        references, index = self._slots.references, self._index
        return sum(not references[index.get(h, MISSING)] or h not in index for h in set(hashes))

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


def _add(writes: list[tuple[int, int, int]], page: int, slot: int) -> None:
    if writes:
        first, begin, count = writes[-1]
        if (page, slot) == (first + count, begin + count):
            writes[-1] = (first, begin, count + 1)
            return
    writes.append((page, slot, 1))
