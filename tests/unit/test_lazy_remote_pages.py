"""Pages from a source, over streams that end at any byte."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.memory.lazy.layout import PAGE
from runtime.memory.lazy.page_protocol import (
    DATA,
    HEAD,
    MOST_QUESTIONS,
    PLENTY,
    WANTED,
    BrokenProtocol,
    PagesGone,
    serve_pages,
)
from runtime.memory.lazy.remote_pages import RemotePages, SourceLost
from runtime.memory.lazy.state import State

SPACE, START, PAGES = 5, 0x5000_0000_0000, 8


@pytest.fixture
def listener(room: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(room / "pages.socket"))
        listener.listen()
        yield listener


@pytest.fixture
def pages(listener: socket.socket) -> Iterator[RemotePages]:
    state = State.create({7: SPACE})
    table = state.look()
    state.add_runs(table.spaces[0], table, [(START, START + PAGES * PAGE)], [])
    state.add_origins(table)
    state.save(table)
    cache = os.memfd_create("cache", os.MFD_CLOEXEC)
    os.ftruncate(cache, PAGES * PAGE)
    yield RemotePages(state, cache, listener.fileno(), None)
    os.close(cache)
    os.close(state.fd)


def test_what_came_before_the_stream_ended_is_told(
    pages: RemotePages, listener: socket.socket
) -> None:
    with socket.socket(socket.AF_UNIX) as source:
        source.connect(listener.getsockname())
        content = os.urandom(2 * PAGE)
        source.sendall(HEAD.pack(DATA, SPACE, START, 2) + content)
        source.sendall(HEAD.pack(DATA, SPACE, START + 4 * PAGE, 3) + content)  # and not all of it
    assert pages.arrived() == [(SPACE, START, START + 2 * PAGE)]
    assert not pages.connected
    states = [piece.source for piece in pages.pieces(SPACE, START, START + 3 * PAGE)]
    assert len(states) == 2


class Asking:
    """A stream of questions, all there from the start, and what was answered."""

    def __init__(self, questions: bytes) -> None:
        self.left, self.answers = questions, b""

    def recv(self, size: int) -> bytes:
        said, self.left = self.left[:size], self.left[size:]
        return said

    def sendall(self, data: bytes | memoryview) -> None:
        self.answers += data

    def settimeout(self, seconds: float) -> None:
        """It never waits."""


def test_questions_without_end_are_not_collected() -> None:
    stream = Asking(HEAD.pack(PLENTY, SPACE, START, 1) * (MOST_QUESTIONS + 4000))
    with pytest.raises(BrokenProtocol, match="without end"):
        serve_pages(stream, lambda *_: bytes(PAGE), lambda: True)


def test_pages_that_are_gone_for_ever_are_said_to_be_and_end_the_waiting(
    pages: RemotePages, listener: socket.socket
) -> None:
    def read(space: int, start: int, end: int) -> bytes:
        raise PagesGone("no memory")

    stream = Asking(HEAD.pack(WANTED, SPACE, START, 1))
    with pytest.raises(PagesGone):
        serve_pages(stream, read, lambda: bool(stream.left))
    with socket.socket(socket.AF_UNIX) as source:
        source.connect(listener.getsockname())
        source.sendall(stream.answers)
        with pytest.raises(SourceLost, match="gone at its source"):
            pages.arrived()
    assert pages.arrived() == []
    assert not pages.connected
