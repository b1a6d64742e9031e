"""How a lazy-pages server asks a source host for pages, and the source's end of it.

A stream, authenticated by whoever opened it. Each message has a fixed head: kind, space, address,
pages. The server asks (WANTED before PLENTY), the source answers with runs of data or of zeros in
any order. The source keeps nothing of a stream: when one is lost, the server asks anew in the next.
LOST is its last word: a page that was asked for is gone for ever.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from runtime.memory.lazy.layout import PAGE

HEAD = struct.Struct("<B3xIQQ")
WANTED, PLENTY, COMPLETE = 1, 2, 3
DATA, ZEROS, LOST = 16, 17, 18
#: of one question
MOST_PAGES = 512
#: that wait for their answers
MOST_QUESTIONS = 1 << 18

_ZEROS = bytes(PAGE)
_FAREWELL_S = 5.0


class Stream(Protocol):
    """A socket, or what TLS makes of one."""

    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes | memoryview, /) -> None: ...
    def settimeout(self, seconds: float, /) -> None: ...


class BrokenProtocol(Exception):
    """The other end has sent what is no message."""


class PagesGone(Exception):
    """Pages that nobody can bring back."""


Read = Callable[[int, int, int], bytes | memoryview]


def serve_pages(stream: Stream, read: Read, waiting: Callable[[], bool]) -> bool:
    """Answer what is asked on *stream*; True when the server has all it needs, False when it ended.

    read(space, start, end): the content of those pages, which must not change any more, or
    PagesGone, which comes out when the server was told; waiting(): whether the stream has something
    to read. Raises OSError, BrokenProtocol.
    """
    wanted: deque[tuple[int, int, int]] = deque()
    plenty: deque[tuple[int, int, int]] = deque()
    unread = b""
    while True:
        if waiting() or not (wanted or plenty):
            data = stream.recv(64 << 10)
            if not data:
                return False
            unread += data
            while len(unread) >= HEAD.size:
                kind, space, address, pages = HEAD.unpack_from(unread)
                unread = unread[HEAD.size :]
                if kind == COMPLETE:
                    return True
                if kind not in (WANTED, PLENTY) or pages > MOST_PAGES:
                    raise BrokenProtocol(f"question of kind {kind} for {pages} pages")
                (wanted if kind == WANTED else plenty).append((space, address, pages))
            if len(wanted) + len(plenty) > MOST_QUESTIONS:
                raise BrokenProtocol("questions without end")
        elif wanted or plenty:
            try:
                _answer(stream, read, *(wanted or plenty).popleft())
            except PagesGone:
                stream.sendall(HEAD.pack(LOST, 0, 0, 0))
                _hear_out(stream)
                raise


def _hear_out(stream: Stream) -> None:
    """Read until the other end hangs up: closed with questions unread, TCP resets the connection,
    which may take back what was just said.
    """
    deadline = time.monotonic() + _FAREWELL_S
    stream.settimeout(_FAREWELL_S)
    with suppress(OSError):
        while stream.recv(64 << 10) and time.monotonic() < deadline:
            pass


def _answer(stream: Stream, read: Read, space: int, address: int, pages: int) -> None:
    data = memoryview(read(space, address, address + pages * PAGE))
    if len(data) != pages * PAGE:
        raise BrokenProtocol(f"{pages} pages at {address:#x} of space {space} are not all here")
    first = 0
    while first < pages:
        zero = _is_zero(data, first)
        last = first + 1
        while last < pages and _is_zero(data, last) == zero:
            last += 1
        kind = ZEROS if zero else DATA
        stream.sendall(HEAD.pack(kind, space, address + first * PAGE, last - first))
        if not zero:
            stream.sendall(data[first * PAGE : last * PAGE])
        first = last


def _is_zero(data: memoryview, page: int) -> bool:
    return data[page * PAGE : (page + 1) * PAGE] == _ZEROS
