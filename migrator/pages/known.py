"""Pages that the other side was given while the container ran: numbers go for them in the freeze.

CRIU itself must restore what is not private and anonymous, from its images. Of that most does not
change at the moment: a megabyte for an interpreter that was loaded and relocated, ten for a large
program, and the shared memory of a database. It would be sent with the images, at a time when each
megabyte is 8 ms of a gigabit link.
"""

from __future__ import annotations

import array
import itertools
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path

from migrator.errors import ProtocolError
from runtime.memory.contents import PAGE_SIZE, PageHash, flat


class Given:
    """The giver's side: where each content is to be found over there, by its hash."""

    def __init__(self, limit_bytes: int) -> None:
        """limit_bytes: what the other side keeps at most."""
        self._most = limit_bytes // PAGE_SIZE
        self._numbers: dict[bytes, int] = {}
        self._hash = PageHash()

    def new(self, block: bytes) -> Iterator[memoryview]:
        """Those pages of *block* that are to be given: each content once, up to the limit."""
        if len(self._numbers) == self._most:
            return
        view = flat(block)
        fresh = map(self._is_new, self._hash.each(view))
        for wanted, group in itertools.groupby(enumerate(fresh), itemgetter(1)):
            places = [at for at, _ in group]
            if wanted:
                yield view[places[0] * PAGE_SIZE : (places[-1] + 1) * PAGE_SIZE]

    def _is_new(self, content: bytes) -> bool:
        if content in self._numbers or len(self._numbers) == self._most:
            return False
        self._numbers[content] = len(self._numbers)
        return True

    def split(self, data: bytes) -> Iterator[tuple[bytes | memoryview, int]]:
        """*data* as (bytes, 0) that have to be sent and (numbers, pages) that stand for pages."""
        view, at = memoryview(data), 0
        whole = len(view) // PAGE_SIZE * PAGE_SIZE
        hashes = self._hash.each(view[:whole])
        for known, group in itertools.groupby(hashes, self._numbers.__contains__):
            pages = list(group)
            size = len(pages) * PAGE_SIZE
            if known:
                yield _packed(map(self._numbers.__getitem__, pages)), len(pages)
            else:
                yield view[at : at + size], 0
            at += size
        if at < len(view):
            yield view[at:], 0

    def __bool__(self) -> bool:
        return bool(self._numbers)


class Kept:
    """The receiver's side: pages in a file without a name, beside the images to come."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        """Keep at most *limit_bytes*. Raises OSError."""
        self._most = limit_bytes // PAGE_SIZE
        self._count = 0
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - closed by close()

    def add(self, data: bytes) -> None:
        """Keep what was given. Raises OSError, ProtocolError for parts of pages and too many."""
        self._count += len(data) // PAGE_SIZE
        if len(data) % PAGE_SIZE or self._count > self._most:
            raise ProtocolError("the source", f"{len(data)} bytes of pages to be kept")
        self._file.write(data)

    def write(self, numbers: bytes, fd: int) -> int:
        """Write what *numbers* stand for to the file *fd*; returns the bytes.

        Raises OSError, ProtocolError when one was never given.
        """
        for first, count in _runs(_unpacked(numbers)):
            if first + count > self._count:
                raise ProtocolError("the source", "a page that it has not given")
            at, end = first * PAGE_SIZE, (first + count) * PAGE_SIZE
            while at < end:
                at += os.sendfile(fd, self._file.fileno(), at, end - at)
        return len(numbers) // 4 * PAGE_SIZE

    def close(self) -> None:
        """Let go of the pages."""
        self._file.close()


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and count of those that follow each other."""
    for _, group in itertools.groupby(enumerate(numbers), lambda each: each[1] - each[0]):
        run = [number for _, number in group]
        yield run[0], len(run)


def _packed(numbers: Iterable[int]) -> bytes:
    values = array.array("I", numbers)
    if sys.byteorder == "little":
        values.byteswap()
    return values.tobytes()


def _unpacked(data: bytes) -> array.array[int]:
    values = array.array("I", data)
    if sys.byteorder == "little":
        values.byteswap()
    return values
