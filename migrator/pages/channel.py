"""The source's conversation with the receiver of its pages: records out, answers in.

Small records are gathered. The destination speaks only when it is asked to, after a MARK, so that
one thread can do both; an ERROR alone comes unasked, and is looked for between two records.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator

from migrator.bandwidth import Limiter
from migrator.dataplane import hang_up
from migrator.errors import MigrationError, PeerLost, ProtocolError
from migrator.pages.batches import PREFIX_SIZE
from migrator.pages.compression import Flow
from migrator.pages.records import (
    MAX_ERROR,
    MAX_KNOWN,
    PAGE,
    VERSION,
    Kind,
    Reader,
    Record,
    pack,
)
from runtime.memory.contents import KEY_SIZE

PEER = "the destination"
#: small records are gathered up to this size; larger payloads go by themselves
GATHERED = 128 << 10
ALONE = 32 << 10
LAST_WORDS_S = 2.0
#: what a destination may say before the mark that it was asked for
MAX_SAID = 4 << 20

_MICROSECONDS = struct.Struct("=Q")
_RWND_LIMITED = 176
_TCP_INFO_SIZE = _RWND_LIMITED + _MICROSECONDS.size

Answer = tuple[Record, memoryview]


class PageChannel:
    """Owns *stream*; used by one thread, `abort` apart. What it sends is counted in *flow*.

    Raises PeerLost when the stream breaks, MigrationError with the destination's words when that
    gave up, ProtocolError for what cannot be.
    """

    def __init__(self, stream: ssl.SSLSocket, limiter: Limiter, flow: Flow) -> None:
        self._stream = stream
        self._limiter = limiter
        self._flow = flow
        self._reader = Reader(stream, PEER)
        self._out = bytearray()
        self._marks = 0
        self._poller = select.poll()
        self._poller.register(stream, select.POLLIN)
        #: when the first byte since the last mark left
        self.busy_since: float | None = None

    def greet(self) -> tuple[list[int], bytes, list[str]]:
        """Say hello; the prefixes of the contents there, their hash's key, the codecs' names."""
        self.put(pack(Kind.HELLO, address=VERSION, pages=PAGE))
        self.flush()
        known: list[int] = []
        for record, payload in self._answers_until(Kind.HELLO):
            if record.kind != Kind.KNOWN or record.size % PREFIX_SIZE or len(known) > MAX_KNOWN:
                raise ProtocolError(PEER, f"no greeting: {record}")
            known += payload.cast("Q").tolist()
        hello, said = self._last
        if (hello.address, hello.pages) != (VERSION, PAGE) or hello.size < KEY_SIZE:
            raise ProtocolError(PEER, f"another greeting: {hello}")
        names = bytes(said[KEY_SIZE:]).decode(errors="replace").split(",")
        return known, bytes(said[:KEY_SIZE]), names

    def mark(self) -> None:
        """Send all, and a mark: `answers` then come."""
        self._marks += 1
        self.put(pack(Kind.MARK, address=self._marks))
        self.flush()

    def answers(self) -> Iterator[Answer]:
        """What the destination says until all before the mark has arrived."""
        yield from self._answers_until(Kind.MARK)
        if self._last[0].address != self._marks:
            raise ProtocolError(PEER, f"another mark: {self._last[0]}")

    def put(self, header: bytes, payload: bytes | memoryview = b"") -> None:
        """Send a record, or keep it until there is enough to be sent. The payload is taken."""
        self._out += header
        if len(payload) >= ALONE:
            self.flush()
            self._write(memoryview(payload))
            return
        self._out += payload
        if len(self._out) >= GATHERED:
            self.flush()

    def flush(self) -> None:
        """Send what was gathered."""
        gathered, self._out = self._out, bytearray()
        self._write(memoryview(gathered))

    def poll(self) -> None:
        """Raise what the destination has said unasked: that it gives up."""
        if self._reader.waiting or self._stream.pending() or self._poller.poll(0):
            record, _ = self._answer()
            raise ProtocolError(PEER, f"what nobody asked for: {record}")

    def close(self) -> None:
        """Say that nothing follows, and wait until the destination has taken that in."""
        try:
            self.put(pack(Kind.END))
            self.flush()
            if self._answer()[0].kind != Kind.END:
                raise ProtocolError(PEER, "something after the end")
        finally:
            self._stream.close()

    def abort(self) -> None:
        """End the stream at once; from any thread, whose sending then raises PeerLost."""
        hang_up(self._stream)

    def _answers_until(self, last: Kind) -> Iterator[Answer]:
        for _ in range(MAX_SAID):
            self._last = self._answer()
            if self._last[0].kind == last:
                return
            yield self._last
        raise ProtocolError(PEER, "answers without end")

    def _answer(self) -> Answer:
        record = self._reader.record()
        payload = memoryview(bytes(self._reader.take(record.size)))
        if record.kind == Kind.ERROR:
            said = bytes(payload[:MAX_ERROR]).decode(errors="replace")
            raise MigrationError(f"{PEER}: {said}")
        return record, payload

    def _write(self, data: memoryview) -> None:
        if self.busy_since is None:
            self.busy_since = time.monotonic()
        began = time.perf_counter()
        try:
            for piece in self._limiter.pieces(data):
                self._stream.sendall(piece)
        except OSError as error:
            raise self._last_words(error) from error
        finally:
            self._flow.send_s += time.perf_counter() - began
        self._flow.bytes_sent += len(data)
        self._flow.full_s = _window_full_s(self._stream)

    def _last_words(self, error: OSError) -> MigrationError:
        """Why the destination closed, if it said so before."""
        try:
            self._stream.settimeout(LAST_WORDS_S)
            self.poll()
        except (PeerLost, OSError):
            pass
        except MigrationError as said:
            return said
        return PeerLost(PEER, f"the page stream: {error}")


def _window_full_s(stream: socket.socket) -> float:
    """How long the peer has let its window be full (tcp_info.tcpi_rwnd_limited, linux/tcp.h 4.10).

    0 where *stream* is no TCP connection, as through SSH.
    """
    if stream.family == socket.AF_UNIX:
        return 0.0
    info = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    if len(info) < _TCP_INFO_SIZE:
        return 0.0
    (limited_us,) = _MICROSECONDS.unpack_from(info, _RWND_LIMITED)
    return float(limited_us) / 1e6
