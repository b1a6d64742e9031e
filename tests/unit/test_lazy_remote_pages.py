"""Pages from a source, over streams that end at any byte."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.memory.lazy.layout import PAGE
from runtime.memory.lazy.page_protocol import DATA, HEAD
from runtime.memory.lazy.remote_pages import RemotePages
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
