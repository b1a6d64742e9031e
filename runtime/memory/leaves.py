"""Tables by leaves: each 512 pages of an address space at a multiple of 512 pages (2 MiB of 4 KiB).

A leaf is kept whole, so that what is done to a run of pages is done to slices of its leaves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from runtime.memory.contents import PAGE_SIZE

LEAF_PAGES = 512
LEAF_BYTES = LEAF_PAGES * PAGE_SIZE
#: address spaces of five levels of page tables end here (Documentation/arch/x86/x86_64/mm.rst)
ADDRESS_LIMIT = 1 << 57
SPACE_LIMIT = 1 << 26


class Part(NamedTuple):
    """The pages *first* to *last* (not included) of leaf *number* of some address space."""

    number: int
    first: int
    last: int

    @property
    def start(self) -> int:
        return self.number * LEAF_BYTES + self.first * PAGE_SIZE

    @property
    def end(self) -> int:
        return self.number * LEAF_BYTES + self.last * PAGE_SIZE


def check_range(space: int, start: int, end: int) -> None:
    """ValueError unless that is a run of pages that an address space can have."""
    if not 0 <= space < SPACE_LIMIT:
        raise ValueError(f"no address space has the number {space}")
    if not 0 <= start <= end <= ADDRESS_LIMIT or start % PAGE_SIZE or end % PAGE_SIZE:
        raise ValueError(f"no pages lie at {start:#x}-{end:#x}")


def parts(start: int, end: int) -> Iterator[Part]:
    """*start* to *end* cut at the borders of leaves."""
    while start < end:
        number, offset = divmod(start, LEAF_BYTES)
        stop = min(end, (number + 1) * LEAF_BYTES)
        yield Part(number, offset // PAGE_SIZE, (offset + stop - start) // PAGE_SIZE)
        start = stop


def parts_among(numbers: Collection[int], start: int, end: int) -> Iterator[Part]:
    """The same, leaving out leaves that are not among *numbers*: of any length quickly."""
    first, last = start // LEAF_BYTES, -(-end // LEAF_BYTES)
    if last - first <= len(numbers):
        among = [number for number in range(first, last) if number in numbers]
    else:
        among = sorted(number for number in list(numbers) if first <= number < last)
    for number in among:
        base = number * LEAF_BYTES
        yield Part(
            number,
            max(0, start - base) // PAGE_SIZE,
            (min(base + LEAF_BYTES, end) - base) // PAGE_SIZE,
        )
