"""The source's end of a page stream: reads pages, hashes them, sends what is not there yet."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from migrator.bandwidth import Limiter
from migrator.errors import MigrationError, PeerLost, ProtocolError
from migrator.page_batches import PREFIX_SIZE, Contents, prefixes, split
from migrator.page_compression import Compressor, Flow
from migrator.page_records import (
    MAX_ERROR,
    MAX_FORGET,
    MAX_PAGES,
    MAX_RUNS,
    PAGE,
    VERSION,
    Kind,
    Reader,
    Record,
    pack,
    pack_runs,
    unpack_runs,
)
from runtime.memory.compression import Codec, available
from runtime.memory.contents import HASH_SIZE, ZERO_HASH, page_hashes
from runtime.memory.hash_table import HashTable
from runtime.memory.runs import Run

#: small records are gathered up to this size; larger payloads go by themselves
GATHERED = 128 << 10
ALONE = 32 << 10
LAST_WORDS_S = 2.0
#: a destination that still asks for the same pages after that many answers is not sound
MAX_ANSWERS = 8

_MICROSECONDS = struct.Struct("=Q")
_RWND_LIMITED = 176
_TCP_INFO_SIZE = _RWND_LIMITED + _MICROSECONDS.size

#: fills the view with memory from an address on; how many bytes could be read
Read = Callable[[memoryview, int], int]
_Answer = tuple[Record, memoryview]


@dataclass(frozen=True, slots=True)
class Arrived:
    """What was sent between two marks and is in the destination's store."""

    bytes_sent: int
    page_bytes: int
    seconds: float

    @property
    def bandwidth(self) -> float:
        """Bytes per second on the wire, until all had arrived."""
        return self.bytes_sent / max(self.seconds, 1e-6)


class Sender:
    """Sends pages over *stream*, which it owns; used by one thread.

    compression: "auto", "none", "lz4" or "zstd". limiter: shared with whatever else is sent.
    `flow` counts pages by sort, bytes and seconds. Every method raises PeerLost when the stream
    breaks, and MigrationError with the destination's words when it gave up; nothing can be sent
    after that, and the source's memory was only read.
    """

    def __init__(
        self, stream: ssl.SSLSocket, *, compression: str = "auto", limiter: Limiter | None = None
    ) -> None:
        self.flow = Flow()
        self.table = HashTable()
        self._stream = stream
        self._limiter = limiter or Limiter(None)
        self._reader = Reader(stream, "the destination")
        self._contents = Contents(ZERO_HASH)
        self._readers: dict[int, Read] = {}
        self._out = bytearray()
        #: what was read and is not sent yet: runs of one space, their pages side by side
        self._pages = memoryview(bytearray(MAX_PAGES * PAGE))
        self._batch: list[Run] = []
        self._space = self._filled = 0
        self._marks = 0
        self._marked = self.flow.copy()
        self._busy_since: float | None = None
        self._poller = select.poll()
        self._poller.register(stream, select.POLLIN)
        codecs = self._greet()
        self._compressor = Compressor(compression, codecs, self.flow)

    def send_run(self, space: int, start: int, end: int, read: Read) -> None:
        """Send the pages *start* to *end* of *space* as they are now; runs may come in any order.

        read: Space.read_into; what it cannot read (any more) is forgotten there. Pages are read at
        once, but small runs leave together: `mark` sees to it that all have left.
        """
        self._readers[space] = read
        while start < end:
            room = self._room_for(space)
            size = min(end - start, len(room))
            began = time.perf_counter()
            got = read(room[:size], start) // PAGE * PAGE
            self.flow.read_s += time.perf_counter() - began
            if got:
                self._batch.append((start, start + got))
                self._filled += got
            start += got
            if got < size:
                start = self._forget_hole(space, start, end, read)

    def send_gone(self, space: int) -> None:
        """Tell that *space* is not there any more."""
        self._send_batch()
        self._readers.pop(space, None)
        self.table.drop(space)
        self._put(pack(Kind.GONE, space=space))

    def mark(self) -> Arrived:
        """Wait until all that was sent is in the store there; say how fast that went."""
        self._settle([])
        now = time.monotonic()
        sent = self.flow.since(self._marked)
        since = now if self._busy_since is None else self._busy_since
        self._marked, self._busy_since = self.flow.copy(), None
        return Arrived(sent.bytes_sent, sent.page_bytes, now - since)

    def verify(self, spaces: Mapping[int, Sequence[Run]]) -> dict[int, list[Run]]:
        """Compare what is in the store there with what was sent, by the digest of these runs.

        Returns the pages that are not there, to be sent again: {} when all is well. Raises
        MigrationError naming the space whose pages are not what was sent.
        """
        asked = [
            (space, list(runs[at : at + MAX_RUNS]))
            for space, runs in spaces.items()
            for at in range(0, len(runs), MAX_RUNS)
        ]
        missing: dict[int, list[Run]] = {}
        for (space, runs), (record, payload) in zip(asked, self._settle(asked), strict=True):
            if record.space != space:
                raise ProtocolError("the destination", f"a digest of another space: {record}")
            if record.kind == Kind.MISSING:
                missing.setdefault(space, []).extend(unpack_runs(payload, "the destination"))
            elif payload != self.table.digest(space, runs):
                raise MigrationError(
                    f"the pages of address space {space} are not the same at the destination: "
                    "look for faulty memory on both hosts"
                )
        return missing

    def close(self) -> None:
        """Say that nothing follows, and wait until the destination has taken that in."""
        try:
            self._send_batch()
            self._put(pack(Kind.END))
            self._flush()
            if self._answer()[0].kind != Kind.END:
                raise ProtocolError("the destination", "something after the end")
        finally:
            self._stream.close()

    def abort(self) -> None:
        """End the stream at once; from any thread, whose sending then raises PeerLost."""
        with suppress(OSError):  # not SSLSocket's own, which would take TLS away from under it
            socket.socket.shutdown(self._stream, socket.SHUT_RDWR)

    def _greet(self) -> dict[str, Codec]:
        """Learn which contents and which codecs are there; the codecs that both sides have."""
        self._put(pack(Kind.HELLO, address=VERSION, pages=PAGE))
        self._flush()
        record, payload = self._answer()
        while record.kind == Kind.KNOWN and record.size % PREFIX_SIZE == 0:
            self._contents.learn(payload.cast("Q").tolist())
            record, payload = self._answer()
        if record.kind != Kind.HELLO or (record.address, record.pages) != (VERSION, PAGE):
            raise ProtocolError("the destination", f"another greeting: {record}")
        there = bytes(payload).decode(errors="replace").split(",")
        return {name: codec for name, codec in available().items() if name in there}

    def _room_for(self, space: int) -> memoryview:
        """Where more pages of *space* can be read to."""
        if space != self._space or self._filled == len(self._pages):
            self._send_batch()
            self._space = space
        return self._pages[self._filled :]

    def _forget_hole(self, space: int, start: int, end: int, read: Read) -> int:
        """Pages from *start* on cannot be read: tell so; where they can be read again."""
        self._send_batch()  # which may have former contents of these
        hole_end = start + PAGE
        while hole_end < end and read(self._pages[:PAGE], hole_end) < PAGE:
            hole_end += PAGE
        self.table.forget(space, start, hole_end)
        for at in range(start, hole_end, MAX_FORGET * PAGE):
            pages = min((hole_end - at) // PAGE, MAX_FORGET)
            self._put(pack(Kind.FORGET, space=space, address=at, pages=pages))
        self.flow.gone_pages += (hole_end - start) // PAGE
        return hole_end

    def _send_batch(self, *, again: bool = False) -> None:
        """Send what was read: runs whose pages lie one after the other.

        again: whole, though they were sent before.
        """
        if not self._batch:
            return
        self._poll()
        space, runs, view = self._space, self._batch, self._pages[: self._filled]
        self._batch, self._filled = [], 0
        hashes = self._hashed(space, runs, view)
        if again:
            self._contents.forget(prefixes(hashes))
        groups = self._contents.groups(hashes)
        first = 0
        for (kind, pages), pieces in zip(groups, split(runs, groups), strict=True):
            last = first + pages
            if kind == Kind.DATA:
                self._send_data(space, pieces, view[first * PAGE : last * PAGE])
            elif kind == Kind.SAME:
                self._send_same(space, pieces, hashes[first * HASH_SIZE : last * HASH_SIZE])
            else:
                self._send_zeros(space, pieces)
            first = last

    def _hashed(self, space: int, runs: list[Run], view: memoryview) -> bytes:
        began = time.perf_counter()
        hashes = page_hashes(view)
        at = 0
        for start, end in runs:
            size = (end - start) // PAGE * HASH_SIZE
            self.table.set(space, start, hashes[at : at + size])
            at += size
        self.flow.hash_s += time.perf_counter() - began
        self.flow.page_bytes += len(view)
        return hashes

    def _send_data(self, space: int, runs: list[Run], view: memoryview) -> None:
        began = time.perf_counter()
        codec, packed = self._compressor.pack(view)
        self.flow.compress_s += time.perf_counter() - began
        pages, places = len(view) // PAGE, pack_runs(runs)
        self.flow.data_pages += pages
        header = pack(
            Kind.DATA,
            codec=codec,
            space=space,
            address=len(runs),
            pages=pages,
            size=len(places) + len(packed),
        )
        self._put(header + places, packed)

    def _send_same(self, space: int, runs: list[Run], hashes: bytes) -> None:
        at = 0
        for start, end in runs:
            pages = (end - start) // PAGE
            known = hashes[at : at + pages * HASH_SIZE]
            self._put(
                pack(Kind.SAME, space=space, address=start, pages=pages, size=len(known)), known
            )
            self.flow.same_pages += pages
            at += len(known)

    def _send_zeros(self, space: int, runs: list[Run]) -> None:
        for start, end in runs:
            pages = (end - start) // PAGE
            self._put(pack(Kind.ZERO, space=space, address=start, pages=pages))
            self.flow.zero_pages += pages

    def _settle(self, asked: list[tuple[int, list[Run]]]) -> list[_Answer]:
        """Mark, and answer what the destination then needs, until it needs nothing more."""
        for _ in range(MAX_ANSWERS):
            answers, needed = self._exchange(asked)
            if not needed:
                return answers
            for record in needed:
                self._send_again(record.space, record.address, record.end)
        raise ProtocolError("the destination", "the same question again and again")

    def _send_again(self, space: int, start: int, end: int) -> None:
        """The destination has let go of these contents."""
        if (read := self._readers.get(space)) is not None:  # else it is gone since
            self._send_batch()
            self.send_run(space, start, end, read)
            self._send_batch(again=True)

    def _exchange(self, asked: list[tuple[int, list[Run]]]) -> tuple[list[_Answer], list[Record]]:
        self._send_batch()
        for space, runs in asked:
            payload = pack_runs(runs)
            self._put(pack(Kind.DIGEST, space=space, size=len(payload)), payload)
        self._marks += 1
        self._put(pack(Kind.MARK, address=self._marks))
        self._flush()
        answers: list[_Answer] = []
        needed: list[Record] = []
        while True:
            record, said = self._answer()
            if record.kind == Kind.MARK and record.address == self._marks:
                return answers, needed
            if record.kind == Kind.NEED:
                needed.append(record)
            elif record.kind in (Kind.DIGEST, Kind.MISSING):
                answers.append((record, said))
            else:
                raise ProtocolError("the destination", f"no answer to a mark: {record}")

    def _answer(self) -> _Answer:
        record = self._reader.record()
        payload = memoryview(bytes(self._reader.take(record.size)))
        if record.kind == Kind.ERROR:
            said = bytes(payload[:MAX_ERROR]).decode(errors="replace")
            said = "".join(c if c.isprintable() else " " for c in said)
            raise MigrationError(f"the destination: {said}")
        return record, payload

    def _poll(self) -> None:
        """The destination says nothing by itself, but that it gives up."""
        if self._reader.waiting or self._stream.pending() or self._poller.poll(0):
            record, _ = self._answer()
            raise ProtocolError("the destination", f"what nobody asked for: {record}")

    def _put(self, header: bytes, payload: bytes | memoryview = b"") -> None:
        """Send a record, or keep it until there is enough to be sent. The payload is taken."""
        self._out += header
        if len(payload) >= ALONE:
            self._flush()
            self._write(memoryview(payload))
            return
        self._out += payload
        if len(self._out) >= GATHERED:
            self._flush()

    def _flush(self) -> None:
        gathered, self._out = self._out, bytearray()
        self._write(memoryview(gathered))

    def _write(self, data: memoryview) -> None:
        if self._busy_since is None:
            self._busy_since = time.monotonic()
        began = time.perf_counter()
        try:
            for piece in self._limiter.pieces(data):
                self._stream.sendall(piece)
        except OSError as error:
            raise self._last_words(error) from error
        finally:
            self.flow.send_s += time.perf_counter() - began
        self.flow.bytes_sent += len(data)
        self.flow.full_s = _window_full_s(self._stream)

    def _last_words(self, error: OSError) -> MigrationError:
        """Why the destination closed, if it said so before."""
        try:
            self._stream.settimeout(LAST_WORDS_S)
            self._poll()
        except (PeerLost, OSError):
            pass
        except MigrationError as said:
            return said
        return PeerLost("the destination", f"the page stream: {error}")


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
