"""Pages of a source host, fetched over a stream that may be lost and come again.

The stream comes in on `pages.socket`: whoever has a connection to the source passes it on there,
and does so again after every loss. What has arrived lies in shared memory, so that neither a lost
stream nor a killed server fetches it twice. Tasks that wait for a page wait until it comes.
"""

from __future__ import annotations

import ctypes
import os
import select
import time
from _socket import AF_UNIX, SOCK_STREAM, socket
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from mmap import mmap

from runtime.memory.lazy.layout import PAGE, PAGE_SHIFT
from runtime.memory.lazy.page_protocol import (
    COMPLETE,
    DATA,
    HEAD,
    LOST,
    MOST_PAGES,
    PLENTY,
    WANTED,
    ZEROS,
    BrokenProtocol,
)
from runtime.memory.lazy.pages import ABSENT, Piece
from runtime.memory.lazy.protocol import accept
from runtime.memory.lazy.state import Origin, State

NAME = "pages.socket"

_MADV_REMOVE = 9
_HERE, _ZERO = 1, 2
# One question, and what may be asked for ahead of need: that much a fault has to wait for.
_PIECE = 32
_AHEAD = 256
_ONCE = 2 << 20
_FAREWELL_S = 2.0


class SourceLost(Exception):
    """The source has not come back in time, or has not what it had."""


class RemotePages:
    """The server's end. A stream is this process's own: a successor starts with the next one."""

    def __init__(
        self, state: State, cache_fd: int, listener_fd: int, give_up_after_s: float | None
    ) -> None:
        self._state, self._cache_fd, self._listener_fd = state, cache_fd, listener_fd
        self._give_up_after_s = give_up_after_s
        self._alone_since = time.monotonic()
        self._origins: dict[int, list[Origin]] = {}
        self._received_at = self._count = 0
        self._cache: mmap | None = None
        self._base = 0
        self._stream: socket | None = None
        self._forget_stream()

    def _forget_stream(self) -> None:
        self._asked: set[int] = set()
        self._unsent = b""
        self._head = b""
        self._body: tuple[int, int] | None = None  # bytes of the cache that come next
        self._first = 0
        self._cursor = 0
        self._alone_since = time.monotonic()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    # ---- Pages

    streaming = True

    def refresh(self) -> None:
        """The restore has begun: what is missing is known, and can be asked for."""
        if self._stream is not None:
            self._ask_ahead()

    def resume(self) -> None:
        """What was under way in a stream of another process is not known here."""
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if int(name) != self._listener_fd and _is_ours(int(name)):
                    os.close(int(name))
        if self._stream is not None:
            self._stream.detach()
            self._stream = None
        self._forget_stream()

    def pieces(self, space: int, start: int, end: int) -> Iterator[Piece]:
        """See Pages."""
        while start < end:
            page, until = self._page(space, start)
            until = min(end, until)
            received = self._received
            state, length = received[page], 1
            while start + (length << PAGE_SHIFT) < until and received[page + length] == state:
                length += 1
            source = self._base + (page << PAGE_SHIFT) if state == _HERE else None
            until = start + (length << PAGE_SHIFT)
            yield Piece(start, until, source if state else ABSENT)
            start = until

    def discard(self, space: int, start: int, end: int) -> None:
        """Give their memory back."""
        if self._cache is not None:
            page, _ = self._page(space, start)
            self._cache.madvise(_MADV_REMOVE, page << PAGE_SHIFT, end - start)

    def want(self, space: int, start: int, end: int) -> None:
        """Ask for what was not asked for yet, before all else."""
        for address in range(start, end, PAGE):
            page, _ = self._page(space, address)
            if page not in self._asked:
                self._ask(WANTED, space, address, page, 1)

    def descriptors(self) -> list[tuple[int, int]]:
        """The listener, and the stream."""
        found = [(self._listener_fd, select.POLLIN)]
        if self._stream is not None:
            events = select.POLLIN | (select.POLLOUT if self._unsent else 0)
            found.append((self._stream.fileno(), events))
        return found

    def arrived(self) -> list[tuple[int, int, int]]:
        """Take in a new stream, or what has come on the one there is, and ask for more."""
        self._load()
        found: list[tuple[int, int, int]] = []
        if _ready(self._listener_fd):
            self._forget_stream()
            self._stream = socket(AF_UNIX, SOCK_STREAM, 0, accept(self._listener_fd))
            self._stream.setblocking(False)
        try:
            self._receive(found)
            self._ask_ahead()
            self._send()
        except (OSError, BrokenProtocol):
            self._forget_stream()
        return found

    @property
    def connected(self) -> bool:
        """Whether there is a stream."""
        return self._stream is not None

    def patience(self) -> None:
        """Raises SourceLost when there was no stream for too long."""
        lost_s = time.monotonic() - self._alone_since
        if self._stream is None and self._give_up_after_s and lost_s > self._give_up_after_s:
            missing = bytes(self._received).count(0)
            raise SourceLost(
                f"the source was not heard of for {lost_s:.0f} s; {missing} of {self._count} pages "
                "are still there, and its copy is frozen and whole"
            )

    def complete(self) -> None:
        """Tell the source that nothing more will be asked for, if there is a stream."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.settimeout(_FAREWELL_S)
                self._stream.sendall(self._unsent + HEAD.pack(COMPLETE, 0, 0, 0))
                # Until it has read that and hangs up: it may still be answering.
                while self._stream.recv(_ONCE):
                    pass

    # ---- what lies where

    @property
    def _received(self) -> memoryview:
        self._load()
        return memoryview(self._state.memory)[self._received_at : self._received_at + self._count]

    def _load(self) -> None:
        """What the owner has said to be lazy: known late, and never changed."""
        if self._cache is None:
            origins, self._received_at, self._count = self._state.origins()
            if not self._count:
                return
            for origin in origins:
                self._origins.setdefault(origin.space, []).append(origin)
            self._flat = origins
            self._cache = mmap(self._cache_fd, self._count << PAGE_SHIFT)
            self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._cache))

    def _page(self, space: int, address: int) -> tuple[int, int]:
        """The number of a page in the cache, and where its origin ends."""
        self._load()
        origins = self._origins.get(space, [])
        index = bisect_right(origins, address, key=lambda each: each.start) - 1
        if index < 0 or address >= origins[index].end:
            raise BrokenProtocol(f"page {address:#x} of space {space} is none that is wanted")
        origin = origins[index]
        return origin.first + (address - origin.start >> PAGE_SHIFT), origin.end

    def _address(self, page: int) -> tuple[int, int, int]:
        """Space and address of a page of the cache, and how many follow it there."""
        origin = self._flat[bisect_right(self._flat, page, key=lambda each: each.first) - 1]
        address = origin.start + (page - origin.first << PAGE_SHIFT)
        return origin.space, address, origin.end - address >> PAGE_SHIFT

    # ---- the stream

    def _ask(self, kind: int, space: int, address: int, page: int, pages: int) -> None:
        if self._stream is not None:
            self._asked.update(range(page, page + pages))
            self._unsent += HEAD.pack(kind, space, address, pages)
            if kind == WANTED:
                with suppress(OSError):  # seen again when it is read from
                    self._send()

    def _ask_ahead(self) -> None:
        received = self._received
        while self._stream is not None and len(self._asked) < _AHEAD:
            page = self._state.memory.find(
                b"\x00", self._received_at + self._cursor, self._received_at + self._count
            )
            if page < 0:
                return
            page -= self._received_at
            self._cursor = page + 1
            if page not in self._asked:
                space, address, room = self._address(page)
                last = page + 1
                while last < page + min(room, _PIECE) and not (
                    received[last] or last in self._asked
                ):
                    last += 1
                self._cursor = last
                self._ask(PLENTY, space, address, page, last - page)

    def _send(self) -> None:
        if self._stream is not None and self._unsent:
            with suppress(BlockingIOError):
                self._unsent = self._unsent[self._stream.send(self._unsent) :]

    def _receive(self, found: list[tuple[int, int, int]]) -> None:
        """Add what has come to *found*, also when the stream then turns out to have ended."""
        left = _ONCE
        while self._stream is not None and left > 0:
            try:
                left -= self._receive_some(found)
            except BlockingIOError:
                break

    def _receive_some(self, found: list[tuple[int, int, int]]) -> int:
        assert self._stream is not None
        if self._body is None:
            data = self._stream.recv(HEAD.size - len(self._head))
            if not data:
                raise BrokenProtocol("it has ended")
            self._head += data
            if len(self._head) == HEAD.size:
                self._begin_run(found)
            return len(data)
        assert self._cache is not None
        start, end = self._body
        size = self._stream.recv_into(memoryview(self._cache)[start:end])
        if not size:
            raise BrokenProtocol("it has ended")
        self._body = start + size, end
        if start + size == end:
            self._body = None
            self._take(self._first, end >> PAGE_SHIFT, _HERE, found)
        return size

    def _begin_run(self, found: list[tuple[int, int, int]]) -> None:
        kind, space, address, pages = HEAD.unpack(self._head)
        self._head = b""
        if kind == LOST:
            raise SourceLost("pages that were missing are gone at its source")
        page, end = self._page(space, address)
        if not 0 < pages <= MOST_PAGES or address + (pages << PAGE_SHIFT) > end:
            raise BrokenProtocol(f"answer of {pages} pages at {address:#x}")
        if kind == DATA:
            self._first, self._body = page, (page << PAGE_SHIFT, page + pages << PAGE_SHIFT)
        elif kind == ZEROS:
            self._take(page, page + pages, _ZERO, found)
        else:
            raise BrokenProtocol(f"answer of kind {kind}")

    def _take(self, first: int, last: int, state: int, found: list[tuple[int, int, int]]) -> None:
        self._received[first:last] = bytes([state]) * (last - first)
        self._asked.difference_update(range(first, last))
        space, address, _ = self._address(first)
        found.append((space, address, address + (last - first << PAGE_SHIFT)))


def _ready(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _is_ours(fd: int) -> bool:
    if not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
        return False
    candidate = socket(fileno=fd)
    try:
        return candidate.family == AF_UNIX and str(candidate.getsockname()).endswith(f"/{NAME}")
    finally:
        candidate.detach()
