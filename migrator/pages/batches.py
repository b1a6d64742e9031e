"""How pages travel: which are zeros, which the destination has already, which go whole (pure).

Known contents are remembered by the first 8 bytes of their hash: half the memory of the whole. A
coincidence costs nothing but a question, since SAME records bear the whole hash and the destination
looks it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from migrator.pages.records import PAGE, Kind
from runtime.memory.runs import Run

PREFIX_SIZE = 8


class Group(NamedTuple):
    """Pages of a batch that follow each other and go the same way."""

    kind: Kind
    pages: int


def prefixes(hashes: bytes | memoryview) -> list[int]:
    """The first 8 bytes of each of the 16-byte hashes, as numbers."""
    return memoryview(hashes).cast("B").cast("Q").tolist()[::2]


def pack_prefixes(hashes: bytes | memoryview) -> bytes:
    """The first 8 bytes of each of the hashes, for KNOWN records."""
    return memoryview(hashes).cast("B").cast("Q")[::2].tobytes()


def split(runs: Sequence[Run], groups: Iterable[Group]) -> Iterator[list[Run]]:
    """The pages of *runs*, in order, cut into what each group has of them."""
    rest = iter(runs)
    start = end = 0
    for group in groups:
        piece: list[Run] = []
        left = group.pages * PAGE
        while left:
            if start == end:
                start, end = next(rest)
            stop = min(end, start + left)
            piece.append((start, stop))
            left -= stop - start
            start = stop
        yield piece


class Contents:
    """The contents that are at the destination: sent before, or there from the start."""

    def __init__(self, zero_hash: bytes) -> None:
        (self._zero,) = prefixes(zero_hash)
        self._known: set[int] = set()

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, numbers: Iterable[int]) -> None:
        self._known.update(numbers)

    def forget(self, numbers: Iterable[int]) -> None:
        self._known.difference_update(numbers)

    def groups(self, hashes: bytes) -> list[Group]:
        """How the pages of these hashes go; DATA pages count as known from then on."""
        numbers = prefixes(hashes)
        known, zero = self._known, self._zero
        unlike = set(numbers)
        if len(unlike) == len(numbers) and zero not in unlike and known.isdisjoint(unlike):
            known |= unlike
            return [Group(Kind.DATA, len(numbers))]
        return [Group(kind, sum(1 for _ in pages)) for kind, pages in groupby(numbers, self._kind)]

    def _kind(self, number: int) -> Kind:
        if number == self._zero:
            return Kind.ZERO
        if number in self._known:
            return Kind.SAME
        self._known.add(number)
        return Kind.DATA
