"""The page stream over TLS into a real page store: what arrives, what is not sent, what is said."""

from __future__ import annotations

import ctypes
import os
import random
import socket
import threading
import time
from pathlib import Path

import pytest

from migrator.bandwidth import Limiter
from migrator.errors import MigrationError, PeerLost
from migrator.pages.receiver import Receiver
from migrator.pages.records import Kind, unpack_runs
from migrator.pages.sender import Sender
from migrator.tls import Credentials
from runtime.memory.compression import available
from runtime.memory.contents import PAGE_SIZE as PAGE
from runtime.memory.contents import PageHash
from runtime.memory.page_table import MISSING
from runtime.memory.store import PageStore
from runtime.memory.store_errors import StoreFull

BASE = 0x7F00_0000_0000
OURS, THEIRS = Credentials.make(), Credentials.make()


def tls_pair(family=socket.AF_UNIX):
    """Both ends of a TLS connection."""
    if family == socket.AF_UNIX:
        near, far = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far = listener.accept()[0]
    served = []
    context = THEIRS.context(OURS.certificate, server=True)
    thread = threading.Thread(
        target=lambda: served.append(context.wrap_socket(far, server_side=True))
    )
    thread.start()
    stream = OURS.context(THEIRS.certificate, server=False).wrap_socket(near)
    thread.join()
    stream.settimeout(20)
    return stream, served[0]


class Memory:
    """The source's memory: pages from BASE on, some of which cannot be read."""

    def __init__(self, *pages: bytes) -> None:
        self.data = bytearray(b"".join(pages))
        self.holes: set[int] = set()

    def read(self, view: memoryview, start: int) -> int:
        at = start - BASE
        for page in range(at // PAGE, (at + len(view)) // PAGE):
            if page in self.holes:
                size = page * PAGE - at
                view[:size] = self.data[at : at + size]
                return size
        view[:] = self.data[at : at + len(view)]
        return len(view)

    def page(self, number: int) -> bytes:
        return bytes(self.data[number * PAGE : (number + 1) * PAGE])

    @property
    def run(self) -> tuple[int, int]:
        return BASE, BASE + len(self.data)


class Link:
    """A sender, and a receiver in a thread that fills *store*."""

    def __init__(self, store, family=socket.AF_UNIX, **options) -> None:
        self.store = store
        self.errors: list[BaseException] = []
        self.stream, self.far = tls_pair(family)
        self.receiver = Receiver(self.far, store)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        self.sender = Sender(self.stream, **options)

    def _serve(self) -> None:
        try:
            self.receiver.serve()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            # its traceback would keep the store's memory in use
            self.errors.append(error.with_traceback(None))
        finally:
            self.far.close()

    def close(self) -> None:
        self.sender.abort()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.stream.close()
        self.far.close()


@pytest.fixture
def store(tmp_path):
    directory = tmp_path / "store"
    directory.mkdir(mode=0o700)
    with PageStore.create(directory, 64 << 20) as store:
        yield store


@pytest.fixture
def connect(store):
    links = []

    def connect(**options) -> Link:
        links.append(Link(store, **options))
        return links[-1]

    yield connect
    for link in links:
        link.close()


def content(store: PageStore, space: int, number: int) -> bytes | None:
    """A page as the store has it; None: not there."""
    address = BASE + number * PAGE
    (piece,) = store.pieces(space, address, address + PAGE)
    if piece.source is None:
        return bytes(PAGE)
    return None if piece.source == MISSING else ctypes.string_at(piece.source, PAGE)


def watched(put, asked):
    """*put* of a channel, which notes of which runs a digest is asked."""

    def put_and_note(header: bytes, payload: bytes = b"") -> None:
        if header[0] == Kind.DIGEST:
            asked.append(unpack_runs(memoryview(payload), "us"))
        put(header, payload)

    return put_and_note


def send_noise(link: Link, pages: int = 2000, rounds: int = 1000) -> None:
    """Send something new again and again."""
    for _ in range(rounds):
        memory = Memory(noise(pages))
        link.sender.send_run(1, *memory.run, memory.read)


def noise(pages: int = 1) -> bytes:
    return os.urandom(pages * PAGE)


def half_noise() -> bytes:
    return os.urandom(PAGE // 2) + bytes(PAGE // 2)


def assert_equal(store: PageStore, memory: Memory, space: int = 1) -> None:
    for number in range(len(memory.data) // PAGE):
        there = content(store, space, number)
        assert there == (None if number in memory.holes else memory.page(number)), number


@pytest.mark.parametrize("compression", ["none", "auto", *available()])
def test_every_page_arrives_as_it_is(connect, store, compression):
    numbers = random.Random(1)
    memory = Memory(
        *(numbers.choice([bytes(PAGE), b"same" * 1024, noise(), half_noise()]) for _ in range(900))
    )
    link = connect(compression=compression)
    link.sender.send_run(1, *memory.run, memory.read)
    link.sender.mark()
    assert link.sender.verify({1: [memory.run]}) == {}
    assert_equal(store, memory)


def test_each_content_is_sent_once_and_zeros_never(connect):
    memory = Memory(noise(10), bytes(100 * PAGE), b"same" * 1024 * 50, noise(3))
    link = connect(compression="none")
    link.sender.send_run(1, *memory.run, memory.read)
    link.sender.send_run(2, *memory.run, memory.read)
    arrived = link.sender.mark()
    flow = link.sender.flow
    assert (flow.data_pages, flow.zero_pages, flow.same_pages) == (14, 200, 112)
    assert arrived.bytes_sent < 14 * PAGE + 112 * 16 + 1000
    assert arrived.page_bytes == 2 * len(memory.data)
    assert link.sender.verify({1: [memory.run], 2: [memory.run]}) == {}


def test_what_the_destination_has_is_not_sent_again(connect, store):
    memory = Memory(noise(300))
    first = connect()
    first.sender.send_run(1, *memory.run, memory.read)
    first.sender.close()
    first.thread.join()
    assert first.errors == []
    memory.data += noise(5)
    second = connect()
    second.sender.send_run(1, *memory.run, memory.read)
    assert second.sender.mark().bytes_sent < 6 * PAGE + 300 * 16
    assert (second.sender.flow.same_pages, second.sender.flow.data_pages) == (300, 5)
    assert_equal(store, memory)


def test_scattered_pages_go_together_in_any_order(connect, store):
    memory = Memory(*(noise() if number % 3 else bytes(PAGE) for number in range(2000)))
    memory.holes = set(range(0, 2000, 50))
    runs = [(BASE + at * PAGE, BASE + (at + 1 + at % 2) * PAGE) for at in range(0, 1999, 2)]
    random.Random(3).shuffle(runs)
    link = connect(compression="none")
    for start, end in runs:
        link.sender.send_run(1, start, end, memory.read)
    sent = link.sender.mark()
    assert sent.bytes_sent < link.sender.flow.data_pages * (PAGE + 16) + 24 * 2000
    there = sorted(
        (start, end) for start, end in runs if (start - BASE) // PAGE not in memory.holes
    )
    assert link.sender.verify({1: there}) == {}
    for start, end in runs:
        for number in range((start - BASE) // PAGE, (end - BASE) // PAGE):
            hole = number in memory.holes
            assert content(store, 1, number) == (None if hole else memory.page(number))


def test_a_later_round_replaces_pages(connect, store):
    memory = Memory(noise(600))
    link = connect()
    link.sender.send_run(1, *memory.run, memory.read)
    for number in (0, 255, 256, 599):
        memory.data[number * PAGE : (number + 1) * PAGE] = noise()
        start = BASE + number * PAGE
        link.sender.send_run(1, start, start + PAGE, memory.read)
    link.sender.mark()
    assert link.sender.verify({1: [memory.run]}) == {}
    assert_equal(store, memory)


def test_pages_that_cannot_be_read_any_more_are_forgotten(connect, store):
    memory = Memory(noise(600))
    link = connect()
    link.sender.send_run(1, *memory.run, memory.read)
    memory.holes = {0, 1, 77, *range(255, 300), 599}
    link.sender.send_run(1, *memory.run, memory.read)
    link.sender.mark()
    assert link.sender.flow.gone_pages == len(memory.holes)
    assert_equal(store, memory)


def test_what_is_not_there_any_more_is_not_verified(connect, store):
    memory = Memory(noise(600))
    link = connect()
    link.sender.send_run(1, *memory.run, memory.read)
    assert link.sender.verify_sent() == {}
    for hole in (range(10, 20), range(15, 30)):
        memory.holes |= set(hole)
        link.sender.send_run(1, *memory.run, memory.read)
        assert link.sender.verify_sent() == {}
    memory.holes -= {12}
    link.sender.send_run(1, BASE + 12 * PAGE, BASE + 13 * PAGE, memory.read)
    there = [(BASE, BASE + 10 * PAGE), (BASE + 12 * PAGE, BASE + 14 * PAGE)]
    assert link.sender.verify({1: there}) == {1: [(BASE + 13 * PAGE, BASE + 14 * PAGE)]}
    assert_equal(store, memory)


def test_what_is_forgotten_last_stays_forgotten(connect, store):
    memory = Memory(noise(10))
    link = connect()
    link.sender.send_run(1, *memory.run, memory.read)
    memory.holes = {4}
    link.sender.send_run(1, BASE + 4 * PAGE, BASE + 5 * PAGE, memory.read)
    link.sender.mark()
    assert_equal(store, memory)


def test_a_space_that_is_gone_is_dropped(connect, store):
    memory = Memory(noise(3))
    link = connect()
    for space in (1, 2):
        link.sender.send_run(space, *memory.run, memory.read)
    link.sender.send_gone(1)
    link.sender.mark()
    assert content(store, 1, 0) is None
    assert_equal(store, memory, space=2)


def test_what_was_written_and_is_as_before_is_not_sent(connect, store):
    memory = Memory(noise(100), bytes(10 * PAGE))
    link = connect(compression="none")
    link.sender.send_run(1, *memory.run, memory.read)
    link.sender.mark()
    memory.data[50 * PAGE] ^= 1
    memory.data[105 * PAGE] ^= 1
    pages = [(BASE + at * PAGE, BASE + (at + 1) * PAGE) for at in range(110)]
    link.sender.send_runs(1, pages, memory.read)
    assert link.sender.mark().bytes_sent < 2 * PAGE + 200
    assert link.sender.flow.same_pages == 108
    assert link.sender.verify({1: [memory.run]}) == {}
    assert_equal(store, memory)


def test_only_what_was_sent_since_is_verified_again(connect, store):
    memory = Memory(noise(100))
    link = connect(compression="none")
    link.sender.send_run(1, *memory.run, memory.read)
    assert link.sender.verify({1: [memory.run]}) == {}
    before = link.sender.flow.bytes_sent
    asked = []
    link.sender._channel.put = watched(link.sender._channel.put, asked)
    memory.data[7 * PAGE] ^= 1
    link.sender.send_run(1, *memory.run, memory.read)
    assert link.sender.verify_sent() == {}
    assert link.sender.verify({1: [memory.run]}) == {}
    assert asked == [[(BASE + 7 * PAGE, BASE + 8 * PAGE)]]
    assert link.sender.flow.bytes_sent - before < PAGE + 200
    store.put(1, BASE + 7 * PAGE, noise())
    memory.data[8 * PAGE] ^= 1
    link.sender.send_run(1, *memory.run, memory.read)
    memory.data[7 * PAGE] ^= 1
    link.sender.send_run(1, *memory.run, memory.read)
    assert link.sender.verify({1: [memory.run]}) == {}
    assert_equal(store, memory)


def test_pages_that_are_missing_there_are_listed(connect, store):
    memory = Memory(noise(20))
    link = connect()
    link.sender.send_run(1, *memory.run, memory.read)
    link.sender.mark()
    store.forget(1, BASE + 3 * PAGE, BASE + 5 * PAGE)
    missing = link.sender.verify({1: [memory.run]})
    assert missing == {1: [(BASE + 3 * PAGE, BASE + 5 * PAGE)]}
    for start, end in missing[1]:
        link.sender.send_run(1, start, end, memory.read)
    assert link.sender.verify({1: [memory.run]}) == {}
    assert_equal(store, memory)


def test_pages_that_were_never_sent_are_missing_too(connect):
    memory = Memory(noise(20))
    link = connect()
    link.sender.send_run(1, *memory.run, memory.read)
    start, end = memory.run
    beyond = (end + PAGE, end + 3 * PAGE)
    assert link.sender.verify({1: [(start, end), beyond], 9: [beyond]}) == {
        1: [beyond],
        9: [beyond],
    }


def test_pages_that_are_others_there_end_the_migration(connect, store):
    memory = Memory(noise(20))
    link = connect()
    link.sender.send_run(7, *memory.run, memory.read)
    link.sender.mark()
    store.put(7, BASE + 4 * PAGE, noise())
    with pytest.raises(MigrationError, match="address space 7 are not the same"):
        link.sender.verify({7: [memory.run]})


def test_content_that_is_gone_there_is_sent_whole(connect, store):
    kept = noise()
    memory = Memory(kept, noise(9))
    link = connect()
    link.sender.send_run(1, *memory.run, memory.read)
    link.sender.mark()
    memory.data[:] = noise(10)
    link.sender.send_run(1, *memory.run, memory.read)  # the store lets go of the first contents
    memory.data[5 * PAGE : 6 * PAGE] = kept
    link.sender.send_run(1, *memory.run, memory.read)
    assert link.sender.verify({1: [memory.run]}) == {}
    assert_equal(store, memory)


def test_a_full_store_is_told_in_its_own_words(tmp_path):
    directory = tmp_path / "small"
    directory.mkdir(mode=0o700)
    with PageStore.create(directory, 1 << 20) as store:
        link = Link(store)
        with pytest.raises(MigrationError, match=r"the destination: page store .* is full"):
            send_noise(link)
        link.close()
    assert isinstance(link.errors[0], StoreFull)


def test_a_destination_that_dies_is_lost(connect):
    link = connect()
    send_noise(link, rounds=1)
    socket.socket.shutdown(link.far, socket.SHUT_RDWR)
    with pytest.raises(PeerLost):
        send_noise(link)


def test_a_source_that_dies_is_lost_and_what_arrived_stays(connect, store):
    link = connect()
    memory = Memory(noise(20))
    link.sender.send_run(1, *memory.run, memory.read)
    link.sender.mark()
    link.sender.abort()
    link.thread.join()
    assert isinstance(link.errors[0], PeerLost)
    assert_equal(store, memory)


def test_another_thread_can_abort(connect):
    link = connect()
    threading.Timer(0.2, link.sender.abort).start()
    with pytest.raises(PeerLost):
        send_noise(link)


def test_a_limit_holds(connect):
    link = connect(limiter=Limiter(20_000_000), compression="none")
    memory = Memory(noise(1500))
    link.sender.send_run(1, *memory.run, memory.read)
    assert link.sender.mark().bandwidth < 24e6


def test_a_destination_that_is_the_limit_is_told_from_a_slow_link():
    class Slow:
        hash = PageHash()

        def known(self) -> bytes:
            return b""

        def put_runs(self, space: int, runs: list[tuple[int, int]], data: memoryview) -> None:
            time.sleep(0.01)

    link = Link(Slow(), family=socket.AF_INET, compression="none")
    send_noise(link, pages=8000, rounds=1)
    link.sender.mark()
    flow = link.sender.flow
    assert flow.full_s > flow.send_s / 2
    assert flow.link == float("inf")
    link.close()


def test_a_mark_tells_what_passed_since_the_last(connect):
    link = connect(compression="none")
    memory = Memory(noise(500))
    link.sender.mark()
    link.sender.send_run(1, *memory.run, memory.read)
    first, second = link.sender.mark(), link.sender.mark()
    assert first.page_bytes == 500 * PAGE
    assert 500 * PAGE < first.bytes_sent < 501 * PAGE
    assert (second.page_bytes, second.bytes_sent < 100) == (0, True)


def test_a_store_that_cannot_write_is_told(connect, store, tmp_path):
    class Failing:
        known, hash = store.known, store.hash

        def put_runs(self, space: int, runs: list[object], data: memoryview) -> None:
            raise OSError(5, "Input/output error", str(Path("/store/pages")))

    link = Link(Failing())
    memory = Memory(noise(3))
    link.sender.send_run(1, *memory.run, memory.read)
    with pytest.raises(MigrationError, match=r"the destination: .*Input/output error"):
        link.sender.mark()
    link.close()
