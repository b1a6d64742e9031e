"""The source's end of a page stream: reads pages, hashes them, sends what is not there yet."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from migrator.bandwidth import Limiter
from migrator.errors import MigrationError, PeerLost, ProtocolError
from migrator.page_batches import PREFIX_SIZE, Contents, Group
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
#: what is read and hashed at once
CHUNK = MAX_PAGES * PAGE
LAST_WORDS_S = 2.0
#: a destination that still asks for the same pages after that many answers is not sound
MAX_ANSWERS = 8

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
        self._pages = memoryview(bytearray(CHUNK))
        self._marks = 0
        self._marked = self.flow.copy()
        self._busy_since: float | None = None
        self._poller = select.poll()
        self._poller.register(stream, select.POLLIN)
        codecs = self._greet()
        self._compressor = Compressor(compression, codecs, self.flow)

    def send_run(self, space: int, start: int, end: int, read: Read) -> None:
        """Send the pages start <= address < end of *space* as they are now.

        read: Space.read_into; what it cannot read (any more) is forgotten there.
        """
        self._readers[space] = read
        self._poll()
        self._send_pages(space, start, end, whole=False)

    def send_gone(self, space: int) -> None:
        """Tell that *space* is not there any more."""
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

    def _send_pages(self, space: int, start: int, end: int, *, whole: bool) -> None:
        read = self._readers[space]
        while start < end:
            # as far as the next multiple: tables are cut there too
            view = self._pages[: min(end - start, CHUNK - start % CHUNK)]
            began = time.perf_counter()
            got = read(view, start) // PAGE * PAGE
            self.flow.read_s += time.perf_counter() - began
            if got:
                self._send_batch(space, start, view[:got], whole=whole)
            start += got
            if got < len(view):
                start = self._forget_hole(space, start, end, read)

    def _forget_hole(self, space: int, start: int, end: int, read: Read) -> int:
        """Pages from *start* on cannot be read: tell so; where they can be read again."""
        hole_end = start + PAGE
        while hole_end < end and read(self._pages[:PAGE], hole_end) < PAGE:
            hole_end += PAGE
        self.table.forget(space, start, hole_end)
        for at in range(start, hole_end, MAX_FORGET * PAGE):
            pages = min((hole_end - at) // PAGE, MAX_FORGET)
            self._put(pack(Kind.FORGET, space=space, address=at, pages=pages))
        self.flow.gone_pages += (hole_end - start) // PAGE
        return hole_end

    def _send_batch(self, space: int, address: int, view: memoryview, *, whole: bool) -> None:
        began = time.perf_counter()
        hashes = page_hashes(view)
        self.table.set(space, address, hashes)
        self.flow.hash_s += time.perf_counter() - began
        self.flow.page_bytes += len(view)
        every = Group(Kind.DATA, 0, len(view) // PAGE)
        for kind, first, last in [every] if whole else self._contents.groups(hashes):
            at, pages = address + first * PAGE, last - first
            if kind == Kind.DATA:
                self._send_data(space, at, view[first * PAGE : last * PAGE])
            elif kind == Kind.SAME:
                known = hashes[first * HASH_SIZE : last * HASH_SIZE]
                self.flow.same_pages += pages
                self._put(pack(kind, space=space, address=at, pages=pages, size=len(known)), known)
            else:
                self.flow.zero_pages += pages
                self._put(pack(kind, space=space, address=at, pages=pages))

    def _send_data(self, space: int, address: int, view: memoryview) -> None:
        began = time.perf_counter()
        codec, payload = self._compressor.pack(view)
        self.flow.compress_s += time.perf_counter() - began
        pages = len(view) // PAGE
        self.flow.data_pages += pages
        self._put(
            pack(
                Kind.DATA,
                codec=codec,
                space=space,
                address=address,
                pages=pages,
                size=len(payload),
            ),
            payload,
        )

    def _settle(self, asked: list[tuple[int, list[Run]]]) -> list[_Answer]:
        """Mark, and answer what the destination then needs, until it needs nothing more."""
        for _ in range(MAX_ANSWERS):
            answers, needed = self._exchange(asked)
            if not needed:
                return answers
            for record in needed:
                if record.space in self._readers:
                    self._send_pages(record.space, record.address, record.end, whole=True)
        raise ProtocolError("the destination", "the same question again and again")

    def _exchange(self, asked: list[tuple[int, list[Run]]]) -> tuple[list[_Answer], list[Record]]:
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
