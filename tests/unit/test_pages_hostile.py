"""Both ends of the page stream against a peer that sends anything: refused, never guessed."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrator.errors import MigrationError, PeerLost, ProtocolError
from migrator.pages import records
from migrator.pages.receiver import Receiver
from migrator.pages.records import HEADER, Kind, Reader, pack, pack_runs, unpack_runs
from migrator.pages.sender import Sender
from runtime.memory.contents import PAGE_SIZE as PAGE
from runtime.memory.store import PageStore

HELLO = pack(Kind.HELLO, address=records.VERSION, pages=PAGE)
BASE = 0x7F00_0000_0000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("store")
    with PageStore.create(directory, 8 << 20) as store:
        yield store


def served(store, sent: bytes) -> tuple[BaseException | None, bytes]:
    """What a receiver that is sent *sent* raises, and what it answers."""
    near, far = socket.socketpair()
    answer = bytearray()

    def talk() -> None:
        with suppress(OSError):
            near.sendall(sent)
            near.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while piece := near.recv(1 << 16):
                answer.extend(piece)

    thread = threading.Thread(target=talk)
    thread.start()
    raised: BaseException | None = None
    with far, suppress(OSError):
        try:
            Receiver(far, store).serve()
        except (MigrationError, ValueError, OSError) as error:
            raised = error
    thread.join()
    near.close()
    return raised, bytes(answer)


def data(
    payload: bytes, pages: int = 1, address: int = BASE, runs: int = 1, **fields: int
) -> bytes:
    """A DATA record for one run, whatever its header says."""
    places = pack_runs([(address, address + pages * PAGE)])
    return record(Kind.DATA, places + payload, address=runs, pages=pages, space=1, **fields)


def record(kind: Kind, payload: bytes = b"", **fields: int) -> bytes:
    return pack(kind, **{"size": len(payload), **fields}) + payload


REFUSED = {
    "no greeting": record(Kind.MARK),
    "another version": pack(Kind.HELLO, address=99, pages=PAGE),
    "other pages": pack(Kind.HELLO, address=records.VERSION, pages=PAGE * 4),
    "a greeting twice": HELLO * 2,
    "an unknown kind": HELLO + HEADER.pack(77, 0, 0, 0, 0, 0),
    "a record of the destination": HELLO + record(Kind.NEED, space=1, address=BASE, pages=1),
    "an error": HELLO + record(Kind.ERROR, b"I give up"),
    "a huge payload": HELLO + pack(Kind.DATA, space=1, address=BASE, pages=1, size=1 << 31),
    "too many pages": HELLO + pack(Kind.DATA, space=1, address=BASE, pages=1 << 20),
    "too many zeros": HELLO + pack(Kind.ZERO, space=1, address=BASE, pages=1 << 31),
    "pages without bytes": HELLO + pack(Kind.DATA, space=1, address=1, pages=1),
    "bytes without pages": HELLO + record(Kind.DATA, bytes(PAGE), space=1),
    "half a page": HELLO + data(bytes(PAGE // 2)),
    "a page too many": HELLO + data(bytes(2 * PAGE)),
    "an odd address": HELLO + data(bytes(PAGE), address=BASE + 1),
    "more runs than pages": HELLO + data(bytes(PAGE), runs=2),
    "a run of more pages than are said": HELLO
    + record(Kind.DATA, pack_runs([(BASE, BASE + 9 * PAGE)]) + bytes(PAGE), address=1, pages=1),
    "data for the kernel": HELLO + data(bytes(PAGE), address=(1 << 57)),
    "an address of the kernel": HELLO + record(Kind.ZERO, space=1, address=(1 << 64) - PAGE),
    "zeros into the kernel": HELLO + record(Kind.ZERO, space=1, address=(1 << 57) - PAGE, pages=2),
    "a space that cannot be": HELLO + record(Kind.ZERO, space=1 << 31, address=BASE, pages=1),
    "an unknown codec": HELLO + data(bytes(100), codec=9),
    "pages after the whole": HELLO + record(Kind.WHOLE) + data(bytes(PAGE)),
    "what is no lz4": HELLO + data(b"\xff" * 100, codec=1),
    "what is no zstd": HELLO + data(b"\xff" * 100, codec=2),
    "half a hash": HELLO + record(Kind.SAME, bytes(15), space=1, address=BASE, pages=1),
    "half a run": HELLO + record(Kind.DIGEST, bytes(15), space=1),
    "a run backwards": HELLO + record(Kind.DIGEST, pack_runs([(BASE + PAGE, BASE)]), space=1),
    "runs out of order": HELLO
    + record(Kind.DIGEST, pack_runs([(BASE + PAGE, BASE + 2 * PAGE), (0, PAGE)]), space=1),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_receiver_refuses(store, what):
    raised, answer = served(store, REFUSED[what])
    assert isinstance(raised, ProtocolError | ValueError), raised
    last = answer[answer.rindex(bytes([Kind.ERROR]) + bytes(3)) :] if answer else b""
    assert str(raised).encode()[:100] in last


@pytest.mark.parametrize("cut", [0, 5, 24, 30, 24 + 24 + 16 + PAGE - 1])
def test_a_cut_is_a_lost_source(store, cut):
    raised, answer = served(store, (HELLO + data(bytes(PAGE)))[:cut])
    assert isinstance(raised, PeerLost)
    assert bytes([Kind.ERROR]) + bytes(3) not in answer


headers = st.builds(
    HEADER.pack,
    st.integers(0, 15),
    st.integers(0, 3),
    st.integers(0, 3) | st.integers(0, 2**32 - 1),
    st.integers(0, 2**20).map(lambda page: page * PAGE) | st.integers(0, 2**64 - 1),
    st.integers(0, 300) | st.integers(0, 2**32 - 1),
    st.integers(0, 64) | st.sampled_from([PAGE, 2 * PAGE, 2**32 - 1]),
)
streams = st.lists(headers | st.binary(max_size=64) | st.just(bytes(PAGE)), max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(streams)
def test_no_stream_does_more_than_be_refused(store, pieces):
    served(store, HELLO + b"".join(pieces))


@given(st.binary(max_size=96))
def test_no_bytes_are_runs_but_runs(payload):
    try:
        runs = unpack_runs(memoryview(payload), "it")
    except ProtocolError:
        return
    assert pack_runs(runs) == payload


class Plain(socket.socket):
    """A socket without TLS that a sender takes for one with."""

    def pending(self) -> int:
        return 0


def answered(answers: bytes):
    """A sender whose destination has sent *answers* from the start."""
    near, far = socket.socketpair()
    far.sendall(answers)
    far.shutdown(socket.SHUT_WR)
    near = Plain(fileno=near.detach())
    try:
        sender = Sender(near)
        sender.send_run(1, BASE, BASE + PAGE, lambda view, start: len(view))
        return sender.verify({1: [(BASE, BASE + PAGE)]})
    finally:
        near.close()
        far.close()


THERE = record(Kind.HELLO, b"lz4,zstd", address=records.VERSION, pages=PAGE)
MARK = pack(Kind.MARK, address=1)
NEED = pack(Kind.NEED, space=1, address=BASE, pages=1)


@pytest.mark.parametrize(
    "answers",
    [
        b"",
        record(Kind.HELLO, b"", address=7, pages=PAGE),
        record(Kind.KNOWN, b"1234567"),
        THERE + MARK,  # no digest
        THERE + pack(Kind.MARK, address=2),
        THERE + record(Kind.DIGEST, bytes(32), space=1) + MARK,
        THERE + record(Kind.DIGEST, bytes(32), space=2) + MARK,
        THERE + record(Kind.DIGEST, bytes(32), space=1) * 2 + MARK,
        THERE + record(Kind.MISSING, b"123", space=1) + MARK,
        THERE + data(bytes(PAGE)) + MARK,
        THERE + record(Kind.ERROR, b"no\x1b[31m\nroom"),
        THERE + b"".join(NEED + pack(Kind.MARK, address=number) for number in range(1, 50)),
    ],
)
def test_a_sender_believes_no_answer_that_cannot_be(answers):
    with pytest.raises((MigrationError, ValueError)) as raised:
        answered(answers)
    assert str(raised.value).isprintable()


@settings(max_examples=60, deadline=None)
@given(streams)
def test_no_answers_harm_a_sender(pieces):
    with suppress(MigrationError, OSError, ValueError):
        answered(THERE + b"".join(pieces))


def test_a_reader_gives_records_across_its_buffers_end():
    near, far = socket.socketpair()
    payloads = [bytes([number]) * (number * 7 % 90) for number in range(200)]
    far.sendall(b"".join(record(Kind.KNOWN, payload) for payload in payloads))
    reader = Reader(near, "it", 256)
    with near, far:
        for payload in payloads:
            assert reader.record().size == len(payload)
            assert reader.take(len(payload)) == payload
    assert not reader.waiting
