"""The page store: what was put at an address is found there, by every process that looks."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.memory.contents import PAGE_SIZE, page_hashes
from runtime.memory.store import MISSING, HashTable, MissingPages, PageStore

MIB = 1 << 20
BASE = 0x7F00_0000_0000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PageStore]:
    with PageStore.create(tmp_path, 64 * MIB) as store:
        yield store


def test_what_was_put_is_whole_and_in_one_piece(store: PageStore) -> None:
    data = os.urandom(5 * MIB)
    store.put(1, BASE - MIB, data)
    (piece,) = store.pieces(1, BASE - MIB, BASE + 4 * MIB)
    assert piece.source is not None
    store.verify(1, [(BASE - MIB, BASE + 4 * MIB)])


def test_both_sides_reckon_one_digest(store: PageStore) -> None:
    data = os.urandom(2 * MIB) + bytes(MIB)
    run = (BASE, BASE + 3 * MIB)
    table = HashTable()
    table.set(1, BASE, page_hashes(data))
    store.put(1, BASE, data)
    assert store.digest(1, [run]) == table.digest(1, [run])


def test_a_page_that_never_came_is_named(store: PageStore) -> None:
    store.put(1, BASE, os.urandom(PAGE_SIZE))
    with pytest.raises(MissingPages) as raised:
        store.digest(1, [(BASE, BASE + 2 * PAGE_SIZE)])
    assert raised.value.runs == [(BASE + PAGE_SIZE, BASE + 2 * PAGE_SIZE)]
    assert [piece.source for piece in store.pieces(2, 0, PAGE_SIZE)] == [MISSING]
