"""What tests ask of a page store."""

import ctypes
from collections.abc import Iterable

from runtime.memory.runs import Run
from runtime.memory.served_pages import ServedPages
from runtime.memory.store import MISSING, SERVED, HashTable, PageStore


def ensure_whole(store: PageStore, space: int, runs: Iterable[Run]) -> None:
    """Every page of *runs* is there, and is what its hash in the store says."""
    wanted, table = list(runs), HashTable()
    for run in wanted:
        for start, data in contents(store, space, run):
            table.set(space, start, store.hash.of(data))
    assert table.digest(space, wanted) == store.digest(space, wanted)


def contents(store: ServedPages, space: int, run: Run) -> Iterable[tuple[int, bytes]]:
    """Pieces of *run* as (start, content)."""
    for piece in store.pieces(space, *run):
        assert piece.source not in (MISSING, SERVED)
        size = piece.end - piece.start
        yield (
            piece.start,
            bytes(size) if piece.source is None else ctypes.string_at(piece.source, size),
        )
