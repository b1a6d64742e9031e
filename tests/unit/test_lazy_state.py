"""The shared memory of a lazy-pages server, as a process sees it that begins anew from it."""

import os
import struct
from collections.abc import Iterator

import pytest

from runtime.memory.lazy.layout import FROM_CRIU, FROM_UFFD, LOG_EVENTS, NOTHING, PAGE
from runtime.memory.lazy.state import State

BASE = 0x7F00_0000_0000


@pytest.fixture
def state() -> Iterator[State]:
    state = State.create({1: 10, 2: 20})
    yield state
    os.close(state.fd)


def other(state: State) -> State:
    return State.attach(os.dup(state.fd))


def test_spaces_are_read_as_they_were_saved(state: State) -> None:
    table = state.load()
    runs = [(BASE, BASE + 8 * PAGE), (BASE + (1 << 30), BASE + (1 << 30) + PAGE)]
    state.add_runs(table.spaces[0], table, runs, [(BASE + PAGE, BASE + 2 * PAGE)])
    table.spaces[0].uffd, table.awaited_pid, table.finished = 33, 2, True
    state.save(table)
    found = other(state).load()
    assert [(space.pid, space.source, space.uffd) for space in found.spaces] == [
        (1, 10, 33),
        (2, 20, -1),
    ]
    assert found.spaces[0].areas == table.spaces[0].areas
    assert found.spaces[0].left() == 9
    assert state.hot_runs(found.spaces[0]) == [(BASE + PAGE, BASE + 2 * PAGE)]
    assert (found.awaited_pid, found.finished) == (2, True)


def test_nothing_counts_before_it_is_saved(state: State) -> None:
    table = state.load()
    table.spaces[0].uffd = 5
    state.add_runs(table.spaces[0], table, [(BASE, BASE + PAGE)], [])
    assert other(state).load().spaces[0].uffd == -1
    assert other(state).load().spaces[0].areas == []


def test_areas_that_grow_beyond_their_room_find_another(state: State) -> None:
    table = state.load()
    space = table.spaces[0]
    state.add_runs(space, table, [(BASE, BASE + 4096 * PAGE)], [])
    state.save(table)
    for number in range(200):
        start = BASE + (number * 8 + 1) * PAGE
        space.areas = space.remapped(start, BASE + (1 << 32) + number * 16 * PAGE, PAGE)
        state.save(table)
    assert other(state).load().spaces[0].areas == space.areas
    assert space.left() == 4096


def test_an_event_and_its_effect_are_one_step(state: State) -> None:
    at = state.begin(FROM_UFFD, 9)
    struct.pack_into("B", state.memory, at + LOG_EVENTS, 0x14)
    table = state.load()
    table.spaces[0].uffd = 7
    assert other(state).logged() == (FROM_UFFD, 9, 0)
    state.save(table, done=1)
    assert other(state).logged() == (FROM_UFFD, 9, 1)
    assert other(state).load().spaces[0].uffd == 7
    state.finish_log()
    assert other(state).logged() == (NOTHING, 0, 0)
    assert state.memory[state.log_at() + LOG_EVENTS] == 0
    assert other(state).load().spaces[0].uffd == 7


def test_a_forked_space_has_bytes_of_its_own(state: State) -> None:
    table = state.load()
    parent = table.spaces[0]
    state.add_runs(parent, table, [(BASE, BASE + 100 * PAGE)], [])
    child = state.fork(parent, 12, table)
    table.spaces.append(child)
    state.save(table)
    parent.forget(BASE, BASE + 50 * PAGE)
    assert [space.left() for space in other(state).load().spaces] == [50, 0, 100]
    table.spaces.remove(child)
    state.save(table)
    state.release(child)
    assert [space.left() for space in other(state).look().spaces] == [50, 0]


def test_last_words_are_kept_as_far_as_there_is_room(state: State) -> None:
    state.say("x" * 10000)
    state.say("no memory")
    assert other(state).said() == "no memory"


def test_other_memory_is_refused() -> None:
    fd = os.memfd_create("mig-test")
    os.ftruncate(fd, 1 << 38)
    with pytest.raises(ValueError, match="not the memory of a lazy-pages server"):
        State.attach(fd)
    os.close(fd)


def test_what_was_made_ready_for_a_read_in_vain_is_no_event(state: State) -> None:
    at = state.begin(FROM_CRIU, 5)
    state.memory[at + LOG_EVENTS : at + LOG_EVENTS + 256] = b"\x40" * 256
    at = state.begin(FROM_UFFD, 9)
    assert bytes(state.memory[at + LOG_EVENTS : at + LOG_EVENTS + 256]) == bytes(256)
