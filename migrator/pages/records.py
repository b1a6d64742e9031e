"""The bytes of a page stream: records with a fixed header, read through one big buffer.

A record is a header of 24 bytes, big-endian, and `size` bytes of payload:

    kind u8 | codec u8 | 0 u16 | space u32 | address u64 | pages u32 | size u32

                from the source                             from the destination
    HELLO       pages: page size, address: version          the same, payload: key of the hashes, 16
                                                            bytes, and codecs it has
    KNOWN                                                   payload: first 8 bytes of hashes it has
    DATA        address: a number of runs; payload: these,
                then their pages, raw or packed by `codec`
    ZERO        so many pages of zeros
    SAME        pages sent before: 16 bytes of hash each
    FORGET      pages that are not there any more
    GONE        the space is not there any more
    MARK        address: a number                           the same: all before it is in the store
    NEED                                                    SAME pages whose content is not there
    DIGEST      payload: runs                               payload: the digest of their contents
    MISSING                                                 payload: runs that are not there
    WHOLE       what was asked for by DIGEST is what it is
                to be, and stays so
    END         nothing follows                             all of it is in the store
    ERROR                                                   payload: why it gave up, UTF-8

Runs are pairs of u64. Both ends take the other for hostile: whatever does not fit these bounds is a
ProtocolError.
"""

from __future__ import annotations

import enum
import ssl
import struct
from collections.abc import Sequence
from typing import NamedTuple

from migrator.errors import PeerLost, ProtocolError
from runtime.memory.contents import PAGE_SIZE
from runtime.memory.leaves import ADDRESS_LIMIT

VERSION = 2
PAGE = PAGE_SIZE
#: pages of content in one record at most
MAX_PAGES = (1 << 20) // PAGE
RUN_SIZE = 16
MAX_PAYLOAD = MAX_PAGES * (PAGE + RUN_SIZE)
#: pages of zeros in one record at most: each makes an entry of a table there
MAX_ZEROS = 1 << 16
MAX_FORGET = (1 << 32) - 1
MAX_RUNS = MAX_PAYLOAD // RUN_SIZE
MAX_ERROR = 2000
#: contents of an earlier migration that are told of: 64 GiB, 1.5 GiB of memory at the source
MAX_KNOWN = 1 << 24
#: a record and what a TLS record of 16 KiB may bring along
BUFFER = MAX_PAYLOAD + (256 << 10)

HEADER = struct.Struct(">BBxxIQII")


class Kind(enum.IntEnum):
    HELLO = 1
    KNOWN = 2
    DATA = 3
    ZERO = 4
    SAME = 5
    FORGET = 6
    GONE = 7
    MARK = 8
    NEED = 9
    DIGEST = 10
    MISSING = 11
    END = 12
    ERROR = 13
    WHOLE = 14


#: how many pages a record may speak of
_PAGES = {
    Kind.HELLO: 1 << 20,
    Kind.DATA: MAX_PAGES,
    Kind.ZERO: MAX_ZEROS,
    Kind.SAME: MAX_PAGES,
    Kind.FORGET: MAX_FORGET,
    Kind.NEED: MAX_PAGES,
}
_KINDS = {int(kind): kind for kind in Kind}
CODECS = ("", "lz4", "zstd")


class Record(NamedTuple):
    """A header; the payload is read after it."""

    kind: Kind
    codec: int
    space: int
    address: int
    pages: int
    size: int

    @property
    def end(self) -> int:
        return self.address + self.pages * PAGE


def pack(
    kind: Kind, *, space: int = 0, address: int = 0, pages: int = 0, size: int = 0, codec: int = 0
) -> bytes:
    """A record's header."""
    return HEADER.pack(kind, codec, space, address, pages, size)


def unpack(header: memoryview, peer: str) -> Record:
    """A header off the wire, within its bounds; else ProtocolError."""
    number, *fields = HEADER.unpack(header)
    try:
        record = Record(_KINDS[number], *fields)
    except KeyError:
        raise ProtocolError(peer, f"a page record of unknown kind {number}") from None
    if record.size > MAX_PAYLOAD or record.pages > _PAGES.get(record.kind, 0):
        raise ProtocolError(peer, f"too large a page record: {record}")
    if record.kind in _ADDRESSED and (record.address % PAGE or record.end > ADDRESS_LIMIT):
        raise ProtocolError(peer, f"a page record of no page: {record}")
    if record.codec >= len(CODECS):
        raise ProtocolError(peer, f"a page record of unknown codec: {record}")
    return record


_ADDRESSED = {Kind.ZERO, Kind.SAME, Kind.FORGET, Kind.NEED}


def pack_runs(runs: Sequence[tuple[int, int]]) -> bytes:
    """Runs as a payload; MAX_RUNS of them at most."""
    return struct.pack(f">{2 * len(runs)}Q", *(address for run in runs for address in run))


def unpack_runs(payload: memoryview, peer: str, *, ordered: bool = True) -> list[tuple[int, int]]:
    """The runs in a payload, each of whole pages, sorted and disjoint if *ordered*.

    Raises ProtocolError for anything else.
    """
    if len(payload) % RUN_SIZE:
        raise ProtocolError(peer, f"runs of {len(payload)} bytes")
    runs = list(struct.iter_unpack(">QQ", payload))
    before = 0
    for start, end in runs:
        if not before <= start < end <= ADDRESS_LIMIT or (start | end) % PAGE:
            raise ProtocolError(peer, f"an impossible run {start:#x}-{end:#x}")
        before = end if ordered else 0
    return runs


class Reader:
    """Reads a stream through one reused buffer; what `take` gives is valid until the next call."""

    def __init__(self, stream: ssl.SSLSocket, peer: str, size: int = BUFFER) -> None:
        self.peer = peer
        self._stream = stream
        self._view = memoryview(bytearray(size))
        self._start = self._end = 0
        self.received = 0

    @property
    def waiting(self) -> bool:
        """Whether something that was received already has not been taken."""
        return self._start < self._end

    def record(self) -> Record:
        """The next header. Raises PeerLost at the end of the stream, ProtocolError."""
        return unpack(self.take(HEADER.size), self.peer)

    def take(self, size: int) -> memoryview:
        """The next *size* bytes, at most MAX_PAYLOAD."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start + size > len(self._view):
            rest = self._end - self._start
            self._view[:rest] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, rest
        while self._end - self._start < size:
            self._receive()
        self._start += size
        return self._view[self._start - size : self._start]

    def _receive(self) -> None:
        try:
            got = self._stream.recv_into(self._view[self._end :])
        except OSError as error:
            raise PeerLost(self.peer, f"the page stream: {error}") from error
        if not got:
            raise PeerLost(self.peer, "the page stream was cut off")
        self._end += got
        self.received += got
