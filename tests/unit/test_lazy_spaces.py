"""Which pages of an address space are missing, through everything that a process does to it."""

import random
from mmap import mmap

import pytest

from runtime.memory.lazy.layout import PAGE
from runtime.memory.lazy.spaces import Area, Space, joined

BASE = 0x7F00_0000_0000


@pytest.fixture
def memory() -> mmap:
    return mmap(-1, 1 << 20)


def space(memory: mmap, *areas: tuple[int, int]) -> Space:
    """Areas (first page, last page) with every page missing."""
    made, at = [], 0
    for first, last in areas:
        made.append(Area(BASE + first * PAGE, BASE + last * PAGE, BASE + first * PAGE, at))
        memory[at : at + last - first] = b"\x01" * (last - first)
        at += last - first
    return Space(memory, made, source=1, pid=1)


def missing(found: Space) -> dict[int, int]:
    """Page -> page at the source, of all that is missing."""
    pages = {}
    for area in found.areas:
        for address in range(area.start, area.end, PAGE):
            if found.missing(address):
                source = address - area.start + area.source
                pages[(address - BASE) // PAGE] = (source - BASE) // PAGE
    return pages


def test_small_gaps_join_runs_and_large_ones_do_not() -> None:
    assert joined([(0, PAGE), (2 * PAGE, 3 * PAGE), (1 << 30, (1 << 30) + PAGE)]) == [
        (0, 3 * PAGE),
        (1 << 30, (1 << 30) + PAGE),
    ]


def test_runs_of_missing_pages_end_where_a_page_is_there(memory: mmap) -> None:
    found = space(memory, (0, 10), (20, 30))
    assert found.forget(BASE + 3 * PAGE, BASE + 5 * PAGE) == 2
    ends = [found.run(BASE + first * PAGE, 1 << 60) for first in (0, 3, 10)]
    pages = [((run[1] - BASE) // PAGE, (run[2] - BASE) // PAGE) for run in ends if run]
    assert pages == [(0, 3), (5, 10), (20, 30)]
    assert found.run(BASE + 30 * PAGE, 1 << 60) is None
    assert found.left() == 18


def test_what_is_forgotten_twice_counts_once(memory: mmap) -> None:
    found = space(memory, (0, 10))
    assert found.forget(BASE, BASE + 20 * PAGE) == 10
    assert found.forget(BASE, BASE + 20 * PAGE) == 0


def test_moved_pages_keep_their_source(memory: mmap) -> None:
    found = space(memory, (0, 10))
    found.areas = found.remapped(BASE + 2 * PAGE, BASE + 100 * PAGE, 3 * PAGE)
    assert missing(found) == {0: 0, 1: 1, 100: 2, 101: 3, 102: 4} | {p: p for p in range(5, 10)}
    found.areas = found.remapped(BASE + 101 * PAGE, BASE, PAGE)  # over what was there
    assert missing(found) == {0: 3, 1: 1, 100: 2, 102: 4} | {p: p for p in range(5, 10)}


def test_a_child_misses_what_its_parent_missed_and_goes_its_own_way(memory: mmap) -> None:
    parent = space(memory, (0, 4), (1000, 1004))
    parent.forget(BASE, BASE + PAGE)
    child = Space(memory, parent.copied(4096), source=1, pid=1, forked=True)
    parent.forget(BASE + PAGE, BASE + 2 * PAGE)
    assert sorted(missing(child)) == [1, 2, 3, 1000, 1001, 1002, 1003]
    child.forget(BASE + 1000 * PAGE, BASE + 1004 * PAGE)
    assert parent.left() == 6


def test_anything_at_random_agrees_with_a_plain_model(memory: mmap) -> None:
    chance = random.Random(7)
    for _ in range(40):
        found = space(memory, (0, 40), (60, 90))
        model = {page: page for page in (*range(40), *range(60, 90))}
        for _ in range(30):
            first, size, to = chance.randrange(120), chance.randint(1, 20), chance.randrange(300)
            start = BASE + first * PAGE
            if chance.random() < 0.5:
                found.forget(start, start + size * PAGE)
                model = {p: s for p, s in model.items() if not first <= p < first + size}
            elif abs(first - to) >= size:
                found.areas = found.remapped(start, BASE + to * PAGE, size * PAGE)
                moved = {p - first + to: s for p, s in model.items() if first <= p < first + size}
                model = {
                    p: s
                    for p, s in model.items()
                    if not (first <= p < first + size or to <= p < to + size)
                } | moved
            assert missing(found) == model
