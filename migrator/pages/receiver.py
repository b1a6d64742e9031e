"""The destination's end of a page stream: puts what comes into the page store.

It speaks only when it is spoken to - after a HELLO, a MARK or the END, while the source listens -
so that neither side ever waits for the other to read; and to say why it gives up.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from migrator.errors import PeerLost, ProtocolError
from migrator.pages.batches import PREFIX_SIZE, pack_prefixes
from migrator.pages.records import (
    CODECS,
    MAX_ERROR,
    MAX_KNOWN,
    MAX_PAGES,
    MAX_PAYLOAD,
    MAX_RUNS,
    PAGE,
    RUN_SIZE,
    VERSION,
    Kind,
    Reader,
    Record,
    pack,
    pack_runs,
    unpack_runs,
)
from runtime.memory.compression import CorruptData, available
from runtime.memory.contents import HASH_SIZE
from runtime.memory.store_errors import MissingPages

if TYPE_CHECKING:
    from runtime.memory.store import PageStore

PEER = "the source"
#: answers that wait for the next mark
MAX_ANSWERS = 64 << 20
#: a source that does not read why we gave up is left
DRAIN_S = 5.0


class Receiver:
    """Serves one page stream into *store*; `bytes_received` counts what came over the wire."""

    def __init__(
        self,
        stream: ssl.SSLSocket,
        store: PageStore,
        on_whole: Callable[[], None] = lambda: None,
    ) -> None:
        """on_whole: called when the source has found all pages to be what they are to be."""
        self._stream = stream
        self._store = store
        self._on_whole = on_whole
        self._reader = Reader(stream, PEER)
        self._codecs = available()
        self._room = memoryview(bytearray(MAX_PAYLOAD))
        self._answers = bytearray()
        self._handlers = {
            Kind.DATA: self._data,
            Kind.ZERO: self._zero,
            Kind.SAME: self._same,
            Kind.FORGET: self._forget,
            Kind.GONE: self._gone,
            Kind.DIGEST: self._digest,
            Kind.MARK: self._mark,
            Kind.WHOLE: self._whole,
        }

    @property
    def bytes_received(self) -> int:
        return self._reader.received

    def serve(self) -> None:
        """Until the source says that nothing follows.

        Waits for the source as long as the connection lives. Raises PeerLost, ProtocolError, what
        the store raises (StoreFull, OSError); the source was told why, and the store keeps what
        arrived.
        """
        self._stream.settimeout(None)
        try:
            self._greet()
            while (record := self._reader.record()).kind != Kind.END:
                self._handle(record)
            self._stream.sendall(self._answers + pack(Kind.END))
        except PeerLost:
            raise
        except Exception as error:
            self._give_up(error)
            raise

    def _greet(self) -> None:
        hello = self._reader.record()
        if hello.kind != Kind.HELLO or hello.address != VERSION or hello.size:
            raise ProtocolError(PEER, f"another greeting: {hello}")
        if hello.pages != PAGE:
            raise ProtocolError(PEER, f"pages of {hello.pages} bytes; here they have {PAGE}")
        known = memoryview(pack_prefixes(self._store.known()))[: MAX_KNOWN * PREFIX_SIZE]
        for at in range(0, len(known), MAX_PAYLOAD):
            part = known[at : at + MAX_PAYLOAD]
            self._stream.sendall(pack(Kind.KNOWN, size=len(part)))
            self._stream.sendall(part)
        said = self._store.hash.key + ",".join(self._codecs).encode()
        header = pack(Kind.HELLO, address=VERSION, pages=PAGE, size=len(said))
        self._stream.sendall(header + said)

    def _handle(self, record: Record) -> None:
        handler = self._handlers.get(record.kind)
        if handler is None:
            raise ProtocolError(PEER, f"a record out of place: {record}")
        handler(record, self._reader.take(record.size))

    def _data(self, record: Record, payload: memoryview) -> None:
        if record.address > record.pages:
            raise ProtocolError(PEER, f"more runs than pages: {record}")
        at = record.address * RUN_SIZE
        runs, pages = unpack_runs(payload[:at], PEER, ordered=False), payload[at:]
        if record.codec:
            pages = self._unpacked(record, pages, self._room[: record.pages * PAGE])
        if not sum(end - start for start, end in runs) == record.pages * PAGE == len(pages):
            raise ProtocolError(PEER, f"other pages than its runs have: {record}")
        self._store.put_runs(record.space, runs, pages)

    def _unpacked(self, record: Record, payload: memoryview, room: memoryview) -> memoryview:
        codec = self._codecs.get(CODECS[record.codec])
        if codec is None:
            raise ProtocolError(PEER, f"a codec that this host has not: {record}")
        try:
            codec.decompress(payload, room)
        except CorruptData as error:
            raise ProtocolError(PEER, str(error)) from error
        return room

    def _zero(self, record: Record, payload: memoryview) -> None:
        self._store.zero(record.space, record.address, record.pages)

    def _same(self, record: Record, payload: memoryview) -> None:
        if record.size != record.pages * HASH_SIZE:
            raise ProtocolError(PEER, f"hashes cut short: {record}")
        for start, end in self._store.same(record.space, record.address, bytes(payload)):
            for at in range(start, end, MAX_PAGES * PAGE):
                pages = min((end - at) // PAGE, MAX_PAGES)
                self._answer(pack(Kind.NEED, space=record.space, address=at, pages=pages))

    def _forget(self, record: Record, payload: memoryview) -> None:
        self._store.forget(record.space, record.address, record.end)

    def _gone(self, record: Record, payload: memoryview) -> None:
        self._store.drop(record.space)

    def _digest(self, record: Record, payload: memoryview) -> None:
        runs = unpack_runs(payload, PEER)
        try:
            kind, said = Kind.DIGEST, self._store.digest(record.space, runs)
        except MissingPages as missing:
            kind, said = Kind.MISSING, pack_runs(missing.runs[:MAX_RUNS])
        self._answer(pack(kind, space=record.space, size=len(said)) + said)

    def _mark(self, record: Record, payload: memoryview) -> None:
        answers, self._answers = self._answers, bytearray()
        self._stream.sendall(answers + pack(Kind.MARK, address=record.address))

    def _whole(self, record: Record, payload: memoryview) -> None:
        # From now on the pages are read by others.
        self._handlers = {}
        self._on_whole()

    def _answer(self, record: bytes) -> None:
        self._answers += record
        if len(self._answers) > MAX_ANSWERS:
            raise ProtocolError(PEER, "questions without end")

    def _give_up(self, error: Exception) -> None:
        """Say why, then take in what is under way: closed before, TCP would discard our words."""
        words = str(error).encode()[:MAX_ERROR]
        with suppress(OSError):
            self._stream.settimeout(DRAIN_S)
            self._stream.sendall(pack(Kind.ERROR, size=len(words)) + words)
            while self._stream.recv_into(self._room):
                pass
