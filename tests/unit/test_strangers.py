"""Who connects to our ports and does not show who it is: in nobody's way."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from migrator import dataplane
from migrator.pages import connection
from migrator.pages.connection import Address
from migrator.pages.server import PageServer
from migrator.strangers import MOST, Strangers
from migrator.tls import Credentials

#: less than a handshake may take
SOON_S = 3


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def come_and_be_silent(stack: ExitStack, port: int) -> None:
    for _ in range(2 * MOST):
        came = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0))
        stack.enter_context(came)


def test_the_data_plane_has_room_for_its_peer(stack: ExitStack) -> None:
    ours, theirs = Credentials.make(), Credentials.make()
    listener = dataplane.Listener(
        "127.0.0.1",
        theirs.context(ours.certificate, server=True),
        lambda header, stream: stream.sendall(b"!"),
    )
    stack.callback(listener.close)
    come_and_be_silent(stack, listener.port)
    began = time.monotonic()
    context = ours.context(theirs.certificate, server=False)
    unused = cast(Callable[[str, int], socket.socket], None)
    where = ("127.0.0.1", listener.port)
    with dataplane.connect(*where, context, {}, unused, "127.0.0.1") as stream:
        assert stream.recv(1) == b"!"
    assert time.monotonic() - began < SOON_S


class NoPages:
    identity = "these"

    def read(self, *_: Any) -> bytes:
        return b""


def test_a_page_server_has_room_for_its_client(stack: ExitStack) -> None:
    server = stack.enter_context(PageServer(Address("127.0.0.1", 0), None, cast(Any, NoPages())))
    threading.Thread(target=server.serve_forever, args=[0.01]).start()
    stack.callback(server.shutdown)
    began = time.monotonic()
    come_and_be_silent(stack, server.address.port)
    raw = socket.create_connection(("127.0.0.1", server.address.port))
    with connection.opened(raw, None, server_side=False) as stream:
        assert connection.ask_for(stream, "these") is None
    assert time.monotonic() - began < SOON_S


def test_a_crowd_pushes_none_but_its_own_out(stack: ExitStack) -> None:
    strangers = Strangers()

    def come(address: str) -> socket.socket:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        stack.enter_context(strangers.admitted(ours, address))
        theirs.setblocking(False)
        return theirs

    alone, *crowd = come("10.0.0.1"), *(come("10.0.0.2") for _ in range(MOST + 3))
    assert [each.recv(1) for each in crowd[:4]] == [b""] * 4
    for there in (alone, *crowd[4:]):
        with pytest.raises(BlockingIOError):
            there.recv(1)
