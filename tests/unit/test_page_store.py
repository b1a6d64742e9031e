"""The page store: what was put at an address is found there, by every process that looks."""

import ctypes
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.memory.contents import PAGE_SIZE, ZERO_HASH, PageHash
from runtime.memory.leaves import ADDRESS_LIMIT, LEAF_BYTES
from runtime.memory.store import MISSING, SERVED, HashTable, MissingPages, PageStore, StoreFull
from runtime.memory.store_errors import CorruptStore, StoreBusy
from tests.stores import ensure_whole

MIB = 1 << 20
BASE = 0x7F00_0000_0000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PageStore]:
    with PageStore.create(tmp_path, 64 * MIB) as store:
        yield store


def content(number: int) -> bytes:
    """A page of that content: 0 is of zeros, negative ones begin or end with zeros."""
    if number <= 0:
        return bytes(PAGE_SIZE + number) + b"x" * -number
    return random.Random(number).randbytes(PAGE_SIZE)


def at(page: int) -> int:
    return BASE + page * PAGE_SIZE


def read(store: PageStore, space: int, start: int, end: int) -> list[bytes | int]:
    """Each page there, or what is there instead."""
    found: list[bytes | int] = []
    position = start
    for piece in store.pieces(space, start, end):
        assert piece.start == position < piece.end
        position = piece.end
        for address in range(piece.start, piece.end, PAGE_SIZE):
            if piece.source is None:
                found.append(bytes(PAGE_SIZE))
            elif piece.source in (MISSING, SERVED):
                found.append(piece.source)
            else:
                found.append(ctypes.string_at(piece.source + address - piece.start, PAGE_SIZE))
    assert position == end
    return found


def test_room_that_came_free_in_parts_is_used_in_one_piece(tmp_path: Path) -> None:
    with PageStore.create(tmp_path, MIB) as store:
        for page in range(256):
            store.put(page % 5, at(page), os.urandom(PAGE_SIZE))
        for space in range(5):
            store.drop(space)
        store.put(1, BASE, os.urandom(MIB))
        assert len(list(store.pieces(1, BASE, BASE + MIB))) == 1


def test_what_was_put_is_whole_and_in_one_piece(store: PageStore) -> None:
    store.put(1, BASE - MIB, os.urandom(5 * MIB))
    (piece,) = store.pieces(1, BASE - MIB, BASE + 4 * MIB)
    assert piece.source not in (None, MISSING, SERVED)
    ensure_whole(store, 1, [(BASE - MIB, BASE + 4 * MIB)])


def test_pages_written_again_stay_in_one_piece_with_their_neighbours(store: PageStore) -> None:
    store.put(1, BASE, os.urandom(MIB))
    used = store.size_bytes
    for _ in range(10):
        store.put(1, BASE + 8 * PAGE_SIZE, os.urandom(64 * PAGE_SIZE))
    assert len(list(store.pieces(1, BASE, BASE + MIB))) == 1
    assert store.size_bytes == used


def test_both_sides_reckon_one_digest(store: PageStore) -> None:
    data = os.urandom(2 * MIB) + bytes(MIB)
    run = (BASE, BASE + 3 * MIB)
    table = HashTable()
    table.set(1, BASE, store.hash.of(data))
    store.put(1, BASE, data)
    assert store.digest(1, [run]) == table.digest(1, [run])
    store.put(1, BASE + MIB, content(1))
    assert store.digest(1, [run]) != table.digest(1, [run])


def test_pages_of_many_places_come_in_one_call(store: PageStore) -> None:
    runs = [(at(3), at(5)), (at(510), at(514)), (at(1), at(2))]
    store.put_runs(1, runs, b"".join(map(content, range(1, 8))))
    assert read(store, 1, at(0), at(6)) == [
        MISSING,
        content(7),
        MISSING,
        content(1),
        content(2),
        MISSING,
    ]
    assert read(store, 1, at(510), at(514)) == [content(n) for n in (3, 4, 5, 6)]
    with pytest.raises(ValueError, match="3 runs"):
        store.put_runs(1, runs, content(1))


def test_a_page_that_never_came_is_named(store: PageStore) -> None:
    store.put(1, BASE, os.urandom(PAGE_SIZE))
    with pytest.raises(MissingPages, match="first 0x7f0000001000-0x7f0000002000") as raised:
        store.digest(1, [(BASE, BASE + 2 * PAGE_SIZE)])
    assert raised.value.runs == [(BASE + PAGE_SIZE, BASE + 2 * PAGE_SIZE)]
    assert read(store, 2, 0, PAGE_SIZE) == [MISSING]


def test_only_contents_that_are_nowhere_have_to_be_sent(store: PageStore) -> None:
    store.put(1, at(0), content(1) + content(2))
    wanted = content(2) + content(3) + content(4) + content(0) + content(1)
    assert store.same(2, at(7), store.hash.of(wanted)) == [(at(8), at(10))]
    assert read(store, 2, at(7), at(12)) == [
        content(2),
        MISSING,
        MISSING,
        content(0),
        content(1),
    ]
    assert len(store.known()) == 3 * 16


def test_contents_and_zeros_take_their_room_once(store: PageStore) -> None:
    data = os.urandom(MIB)
    store.put(1, BASE, data)
    used = store.size_bytes
    store.put(1, BASE + MIB, bytes(MIB))
    store.put(2, BASE, data)
    assert store.size_bytes - used < 16 << 10


def test_what_was_served_gives_its_memory_back(store: PageStore) -> None:
    data = os.urandom(4 * MIB)
    store.put(1, BASE, data)
    assert store.same(2, BASE, store.hash.of(data[:MIB])) == []
    with PageStore.open(store.directory) as server:
        server.discard(1, BASE, BASE + 4 * MIB)
        assert set(read(server, 1, BASE, BASE + 4 * MIB)) == {SERVED}
        assert MIB <= server.size_bytes < MIB + (256 << 10)
        server.discard(2, BASE, BASE + MIB)
        assert server.size_bytes < 256 << 10
    assert store.known() == ZERO_HASH


def test_a_store_has_one_writer(store: PageStore) -> None:
    with pytest.raises(StoreBusy, match=r"another process"):
        PageStore.open(store.directory, write=True)
    with PageStore.open(store.directory) as reader, pytest.raises(PermissionError):
        reader.put(1, BASE, content(1))


def test_a_store_that_is_full_says_what_helps_and_stays_whole(tmp_path: Path) -> None:
    with PageStore.create(tmp_path, MIB) as store:
        store.put(1, BASE, os.urandom(MIB))
        whole = store.digest(1, [(BASE, BASE + MIB)])
        with pytest.raises(StoreFull, match=f"{tmp_path} is full: .*larger disk"):
            store.put(1, BASE + MIB, content(1))
        assert store.digest(1, [(BASE, BASE + MIB)]) == whole
        store.forget(1, BASE, BASE + 2 * PAGE_SIZE)
        store.put(2, BASE, content(1) + content(2))
        ensure_whole(store, 1, [(at(2), BASE + MIB)])
        assert read(store, 2, at(0), at(2)) == [content(1), content(2)]


def test_tables_without_end_are_refused(tmp_path: Path) -> None:
    with PageStore.create(tmp_path, MIB) as store:
        with pytest.raises(StoreFull, match="places of 2 MiB"):
            store.zero(1, 0, ADDRESS_LIMIT // PAGE_SIZE)
        half = 1500 * LEAF_BYTES // PAGE_SIZE
        store.zero(1, 0, half)
        with pytest.raises(StoreFull, match="places of 2 MiB"):
            store.zero(1, 1500 * LEAF_BYTES, half)
        store.drop(1)
        store.zero(2, BASE, 1)


CALLS: list[Callable[[PageStore, int, int], object]] = [
    lambda store, space, address: store.put(space, address, content(1)),
    lambda store, space, address: store.zero(space, address, 1),
    lambda store, space, address: store.same(space, address, ZERO_HASH),
    lambda store, space, address: store.forget(space, address, address + PAGE_SIZE),
    lambda store, space, address: store.discard(space, address, address + PAGE_SIZE),
    lambda store, space, address: store.pieces(space, address, address + PAGE_SIZE),
    lambda store, space, address: store.digest(space, [(address, address + PAGE_SIZE)]),
    lambda store, space, address: HashTable().set(space, address, ZERO_HASH),
    lambda store, space, address: HashTable().zero(space, address, 1),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("space", "address"),
    [(-1, 0), (1 << 26, 0), (1, -PAGE_SIZE), (1, 1), (1, ADDRESS_LIMIT), (1, 1 << 64)],
)
def test_places_that_cannot_be_are_refused(
    store: PageStore, call: Callable[[PageStore, int, int], object], space: int, address: int
) -> None:
    with pytest.raises(ValueError, match="no "):
        call(store, space, address)
    assert store.spaces == []


def test_parts_of_pages_and_of_hashes_are_refused(store: PageStore) -> None:
    with pytest.raises(ValueError, match="no whole pages"):
        store.put(1, BASE, b"x" * (PAGE_SIZE - 8))
    with pytest.raises(ValueError, match="no whole hashes"):
        store.same(1, BASE, ZERO_HASH[1:])
    with pytest.raises(ValueError, match="no pages"):
        store.zero(1, BASE, -1)


def test_ranges_without_end_are_looked_at_quickly(store: PageStore) -> None:
    store.put(1, BASE, content(1))
    kinds = [piece.source for piece in store.pieces(1, 0, ADDRESS_LIMIT)]
    assert kinds[0] == kinds[2] == MISSING
    store.forget(1, 0, ADDRESS_LIMIT)
    assert store.known_runs(1) == []


@pytest.mark.parametrize("name", ["leaves", "slots", "hashes", "pages", "references"])
def test_a_store_that_was_cut_short_is_refused(store: PageStore, name: str) -> None:
    os.truncate(store.directory / name, 2048)
    with pytest.raises(CorruptStore, match=r"remove it"):
        PageStore.open(store.directory)


def test_a_table_that_leads_elsewhere_is_refused(store: PageStore) -> None:
    store.put(1, BASE, content(1))
    directory = store.directory
    store.close()
    with (directory / "slots").open("r+b") as file:
        file.write(b"\xff" * 4)
    with pytest.raises(CorruptStore, match="beyond its pages"):
        PageStore.open(directory, write=True)


def test_what_an_earlier_migration_left_is_not_sent_again(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    with PageStore.create(tmp_path, 3 * MIB) as earlier:
        earlier.put(1, BASE, data)
        (piece,) = earlier.pieces(1, BASE, BASE + 3 * MIB)
        assert piece.source is not None
        ctypes.memset(piece.source + 5 * PAGE_SIZE, 1, 3)
        key = earlier.hash.key
    with PageStore.adopt(tmp_path, 64 * MIB) as store:
        assert store.hash.key != key
        assert store.spaces == []
        assert read(store, 1, BASE, BASE + PAGE_SIZE) == [MISSING]
        assert store.same(1, 0, store.hash.of(data)) == [(5 * PAGE_SIZE, 6 * PAGE_SIZE)]
        store.put(1, 0, data[: 8 * PAGE_SIZE])
        store.forget(1, 2 * MIB, 3 * MIB)
        store.put(1, 4 * MIB, os.urandom(MIB))  # more than the earlier one had room for
        ensure_whole(store, 1, [(0, 2 * MIB), (4 * MIB, 5 * MIB)])
        used = store.size_bytes
        store.drop_adopted()
        assert used - store.size_bytes >= MIB
        store.discard(1, 0, 5 * MIB)
        assert store.size_bytes < 256 << 10


def test_what_was_adopted_makes_room_where_it_is_needed(tmp_path: Path) -> None:
    with PageStore.create(tmp_path, MIB) as earlier:
        earlier.put(1, BASE, os.urandom(MIB))
    with PageStore.adopt(tmp_path, MIB) as store:
        data = os.urandom(MIB)
        store.put(1, BASE, data)
        assert b"".join(bytes(page) for page in read(store, 1, BASE, BASE + MIB)) == data


def test_a_table_of_hashes_knows_what_it_was_told() -> None:
    table = HashTable()
    table.set(1, at(510), PageHash().of(b"".join(map(content, (1, 2, 3, 4)))))
    table.forget(1, at(511), at(512))
    assert table.known_runs(1) == [(at(510), at(511)), (at(512), at(514))]
    table.zero(1, at(511), 1)
    assert table.known_runs(1) == [(at(510), at(514))]
    table.drop(1)
    assert table.known_runs(1) == []


# The last pages of one leaf and the first of the next
PLACES = st.integers(LEAF_BYTES // PAGE_SIZE - 6, LEAF_BYTES // PAGE_SIZE + 6)
SPACES = st.integers(1, 3)
CONTENTS = st.lists(st.integers(-3, 5), min_size=1, max_size=8)


class Model(RuleBasedStateMachine):
    """The store beside a dictionary: (space, page) -> content, and whether it was served."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(mkdtemp(prefix="mig-test-store-"))
        self.store = PageStore.create(self.directory, 64 * PAGE_SIZE)
        self.other = PageStore.open(self.directory)
        self.table = HashTable()
        self.pages: dict[tuple[int, int], tuple[int, bool]] = {}

    def teardown(self) -> None:
        self.store.close()
        self.other.close()
        shutil.rmtree(self.directory)

    def has(self, space: int, page: int, numbers: list[int]) -> None:
        for offset, number in enumerate(numbers):
            self.pages[space, page + offset] = (number, False)
            self.table.set(space, at(page + offset), self.store.hash.of(content(number)))

    @rule(space=SPACES, page=PLACES, numbers=CONTENTS)
    def put(self, space: int, page: int, numbers: list[int]) -> None:
        self.store.put(space, at(page), b"".join(map(content, numbers)))
        self.has(space, page, numbers)

    @rule(space=SPACES, page=PLACES, count=st.integers(1, 8))
    def zero(self, space: int, page: int, count: int) -> None:
        self.store.zero(space, at(page), count)
        self.has(space, page, [0] * count)

    @rule(space=SPACES, page=PLACES, numbers=CONTENTS)
    def same(self, space: int, page: int, numbers: list[int]) -> None:
        here = self.contents()
        runs = self.store.same(space, at(page), self.store.hash.of(b"".join(map(content, numbers))))
        sent = {page + offset: number for offset, number in enumerate(numbers)}
        missing = {
            sent.pop((a - BASE) // PAGE_SIZE) for run in runs for a in range(*run, PAGE_SIZE)
        }
        for place, number in sent.items():
            self.has(space, place, [number])
        assert here.issuperset(sent.values())
        # Only what was nowhere, or what this very call has overwritten with the leaf before.
        assert missing.isdisjoint(self.contents())

    def contents(self) -> set[int]:
        return {0} | {number for number, served in self.pages.values() if not served}

    @rule(space=SPACES, page=PLACES, count=st.integers(1, 8))
    def forget(self, space: int, page: int, count: int) -> None:
        self.store.forget(space, at(page), at(page + count))
        self.table.forget(space, at(page), at(page + count))
        for gone in range(page, page + count):
            self.pages.pop((space, gone), None)

    @rule(space=SPACES)
    def drop(self, space: int) -> None:
        self.store.drop(space)
        self.table.drop(space)
        self.pages = {key: value for key, value in self.pages.items() if key[0] != space}

    @rule(space=SPACES, page=PLACES, count=st.integers(1, 8))
    def discard(self, space: int, page: int, count: int) -> None:
        self.other.discard(space, at(page), at(page + count))
        for served in range(page, page + count):
            if (space, served) in self.pages:
                self.pages[space, served] = (self.pages[space, served][0], True)

    @rule()
    def write_on_as_another(self) -> None:
        self.store.close()
        self.store = PageStore.open(self.directory, write=True)

    @precondition(lambda self: self.pages)
    @invariant()
    def everybody_sees_it(self) -> None:
        for space in {space for space, _ in self.pages}:
            for store in (self.store, self.other):
                assert read(store, space, at(500), at(530)) == [
                    self.expected(space, page) for page in range(500, 530)
                ]
                runs = store.known_runs(space)
                assert runs == self.table.known_runs(space)
                assert store.digest(space, runs) == self.table.digest(space, runs)

    def expected(self, space: int, page: int) -> bytes | int:
        number, served = self.pages.get((space, page), (None, False))
        return MISSING if number is None else SERVED if served else content(number)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
