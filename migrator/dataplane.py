"""The bulk side of a migration: TLS streams beside the control channel.

The agent listens on the address that SSH reached it by, on a port of the kernel's choice, for the
time of one migration. Both sides make a certificate for that one migration and tell it to each
other over SSH: TLS 1.3 then accepts exactly that peer and no one else. Where the port cannot be
reached (a firewall, a jump host), the same streams run through SSH's own forwarding. A stream
begins with one line of JSON that says what it carries.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from criu_rpc.logger import Logger
from migrator.bandwidth import Limiter
from migrator.errors import PeerLost, ProtocolError
from migrator.strangers import Strangers

logger = Logger(__name__)

CONNECT_TIMEOUT_S = 2.0
STREAM_TIMEOUT_S = 30.0
HANDSHAKE_TIMEOUT_S = 5.0
#: for the threads of streams that were ended to let go of what they work with
LETTING_GO_S = 5.0
#: a cut link is noticed after this long: until then the container may be frozen
LINK_TIMEOUT_S = 5
MAX_HEADER = 4096
CHUNK = 1 << 20


class Listener:
    """The destination's end: hands each stream of the source to *serve* in a thread of its own.

    serve(header, stream): reads and writes the stream; its exception is logged and ends that stream
    alone.
    """

    def __init__(
        self,
        address: str,
        context: ssl.SSLContext,
        serve: Callable[[dict[str, Any], ssl.SSLSocket], None],
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family)
        self._context = context
        self._serve = serve
        self._open: dict[ssl.SSLSocket, threading.Thread] = {}
        self._strangers = Strangers()
        self._closed = False
        self.address = address
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, name="data-plane", daemon=True).start()

    def close(self) -> None:
        """Accept no more and end the streams that are open; nobody serves one any more then."""
        self._closed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        served = dict(self._open)
        for stream in served:
            hang_up(stream)
        deadline = time.monotonic() + LETTING_GO_S
        for thread in served.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        while not self._closed:
            try:
                raw, (peer, *_) = self._socket.accept()
            except OSError as error:
                if not self._closed:
                    logger.warning("data plane: %s", error)
                    time.sleep(0.1)
                continue
            arguments = (raw, peer)
            threading.Thread(target=self._run, args=arguments, name="stream", daemon=True).start()

    def _run(self, raw: socket.socket, peer: str) -> None:
        try:
            stream = self._authenticated(raw, peer)
        except OSError as error:  # whoever it was must not fill our log: nobody may read it
            logger.info("data plane: a stranger was not let in: %s", error)
            return
        try:
            with stream:
                self._open[stream] = threading.current_thread()
                if self._closed:
                    return
                header = _read_header(stream)
                stream.settimeout(None)  # it may have nothing to say for long: see _tune
                self._serve(header, stream)
        except Exception as error:  # noqa: BLE001 - ends one stream, never the agent
            if not self._closed:
                logger.warning("data plane: a stream ended: %s", error)
        finally:
            self._open.pop(stream, None)

    def _authenticated(self, raw: socket.socket, peer: str) -> ssl.SSLSocket:
        with raw, self._strangers.admitted(raw, peer):
            raw.settimeout(HANDSHAKE_TIMEOUT_S)
            stream = self._context.wrap_socket(raw, server_side=True)
        _tune(stream)
        return stream


def connect(
    address: str,
    port: int,
    context: ssl.SSLContext,
    header: dict[str, Any],
    forward: Callable[[str, int], socket.socket],
    peer_address: str,
) -> ssl.SSLSocket:
    """A stream to the destination's listener, opened with *header*.

    peer_address: where SSH itself goes, tried directly; forward(address, port): the way through
    SSH, taken when that fails. Raises DestinationUnreachable, PeerLost.
    """
    raw = _direct(peer_address, port) or forward(address, port)
    try:
        stream = context.wrap_socket(raw)  # which closes what it cannot wrap
        try:
            stream.sendall(json.dumps(header).encode() + b"\n")
        except OSError:
            stream.close()
            raise
    except OSError as error:
        raise PeerLost("the data plane", str(error)) from error
    return stream


def _direct(address: str, port: int) -> socket.socket | None:
    if not address:
        return None
    try:
        raw = socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S)
    except OSError as error:
        logger.info(
            "data plane: port %d of %s cannot be reached (%s): through ssh", port, address, error
        )
        return None
    _tune(raw)
    return raw


def hang_up(stream: ssl.SSLSocket) -> None:
    """End a stream that another thread works with: that one then finds it broken, and closes it.

    SSLSocket's own shutdown and close take TLS away first: what the other thread sends next would
    leave in the clear, and what it receives would be TLS's records, taken for data.
    """
    with suppress(OSError):
        socket.socket.shutdown(stream, socket.SHUT_RDWR)


def _tune(raw: socket.socket) -> None:
    """Small records at once; a peer that acknowledges nothing is given up (tcp(7)), also where
    nothing is sent.
    """
    raw.settimeout(STREAM_TIMEOUT_S)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, LINK_TIMEOUT_S)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LINK_TIMEOUT_S * 1000)


def _read_header(stream: ssl.SSLSocket) -> dict[str, Any]:
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = stream.recv(1)
        if not byte or len(line) > MAX_HEADER:
            raise ProtocolError("the data plane", "a stream without a header")
        line += byte
    header = json.loads(line)
    if not isinstance(header, dict):
        raise ProtocolError("the data plane", "a header that is no object")
    return header


def pump(
    stream: ssl.SSLSocket, read_fd: int, write_fd: int, limiter: Limiter | None = None
) -> None:
    """Carry bytes both ways between a TLS stream and a program until the program closes its end.

    read_fd: the program's output; write_fd: its input (may be one socket's descriptor for both);
    limiter: of what the stream is given.
    One thread does it, since OpenSSL's state may not be used by two at once. Ends when *read_fd* is
    at its end.
    """
    stream.setblocking(False)
    for fd in {read_fd, write_fd}:
        os.set_blocking(fd, False)
    try:
        Pump(stream, read_fd, write_fd, limiter or Limiter(None)).run()
    except OSError as error:
        raise PeerLost("the data plane", str(error)) from error


class Pump:
    """The loop of `pump`: what waits in each direction, and what each side is waited for."""

    def __init__(
        self, stream: ssl.SSLSocket, read_fd: int, write_fd: int, limiter: Limiter
    ) -> None:
        self.limiter = limiter
        self.stream, self.read_fd, self.write_fd = stream, read_fd, write_fd
        self.outgoing, self.incoming = bytearray(), bytearray()
        self.program_ended = self.peer_ended = False

    def run(self) -> None:
        while not self.program_ended or self.outgoing:
            self._wait()
            self._from_program()
            self._to_peer()
            self._from_peer()
            self._to_program()

    def _wait(self) -> None:
        with selectors.DefaultSelector() as selector:
            interest: dict[int, int] = {}
            if not self.program_ended and len(self.outgoing) < CHUNK:
                interest[self.read_fd] = selectors.EVENT_READ
            if self.incoming:
                interest[self.write_fd] = interest.get(self.write_fd, 0) | selectors.EVENT_WRITE
            wanted = selectors.EVENT_WRITE if self.outgoing else 0
            if not self.peer_ended and len(self.incoming) < CHUNK:
                wanted |= selectors.EVENT_READ
                if self.stream.pending():
                    return
            if wanted:
                interest[self.stream.fileno()] = wanted
            for fd, events in interest.items():
                selector.register(fd, events)
            selector.select()

    def _from_program(self) -> None:
        if self.program_ended or len(self.outgoing) >= CHUNK:
            return
        with suppress(BlockingIOError):
            data = os.read(self.read_fd, 1 << 18)
            self.program_ended = not data
            self.outgoing += data

    def _to_peer(self) -> None:
        with suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
            while self.outgoing:
                with memoryview(self.outgoing)[: self.limiter.piece] as part:
                    sent = self.stream.send(part)
                del self.outgoing[:sent]
                self.limiter.wait(sent)
                if self.limiter.rate:
                    return  # what comes is read between two pieces

    def _from_peer(self) -> None:
        if self.peer_ended or len(self.incoming) >= CHUNK:
            return
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            data = self.stream.recv(1 << 18)
            if not data:
                self.peer_ended = True
                if not self.incoming:
                    self._close_program_input()
            self.incoming += data

    def _to_program(self) -> None:
        with suppress(BlockingIOError):
            while self.incoming:
                del self.incoming[: os.write(self.write_fd, self.incoming)]
            if self.peer_ended:
                self._close_program_input()

    def _close_program_input(self) -> None:
        if self.write_fd < 0:
            return
        with suppress(OSError):  # a socket: half-close; a pipe is closed by its owner
            sock = socket.socket(fileno=os.dup(self.write_fd))
            with sock:
                sock.shutdown(socket.SHUT_WR)
