"""Pages that the other side was given while the container ran: numbers go for them in the freeze.

Of the memory that CRIU itself must restore most was written once, when programs were loaded and
relocated, and never again: a megabyte for an interpreter, ten for a large program. It would be sent
with the images, at a time when each megabyte is 8 ms of a gigabit link.
"""

from __future__ import annotations

import array
import itertools
import sys
from collections.abc import Iterable, Iterator

from migrator.errors import ProtocolError

PAGE_BYTES = 4096
#: of what one side keeps for the other
MAX_BYTES = 64 << 20


class Given:
    """The giver's side: where each page is to be found over there."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def new(self, pages: Iterable[bytes]) -> Iterator[bytes]:
        """Those of *pages* that are to be given: each content once, up to MAX_BYTES in all."""
        for page in pages:
            if len(self._numbers) == MAX_BYTES // PAGE_BYTES:
                return
            if page not in self._numbers:
                self._numbers[page] = len(self._numbers)
                yield page

    def split(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """*data* as (bytes, 0) that have to be sent and (numbers, pages) that stand for pages."""
        cut = [data[at : at + PAGE_BYTES] for at in range(0, len(data), PAGE_BYTES)]
        for known, group in itertools.groupby(cut, self._numbers.__contains__):
            if known:
                numbers = [self._numbers[page] for page in group]
                yield _packed(numbers), len(numbers)
            else:
                yield b"".join(group), 0

    def __bool__(self) -> bool:
        return bool(self._numbers)


class Kept:
    """The receiver's side."""

    def __init__(self) -> None:
        self._pages: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Keep what was given; ProtocolError when it is not whole pages, or more than MAX_BYTES."""
        cut = [data[at : at + PAGE_BYTES] for at in range(0, len(data), PAGE_BYTES)]
        self._pages += cut
        if len(data) % PAGE_BYTES or len(self._pages) > MAX_BYTES // PAGE_BYTES:
            raise ProtocolError("the source", f"{len(data)} bytes of pages to be kept")

    def pages(self, numbers: bytes) -> bytes:
        """What *numbers* stand for; ProtocolError when one was never given."""
        try:
            return b"".join(map(self._pages.__getitem__, _unpacked(numbers)))
        except IndexError:
            raise ProtocolError("the source", "a page that it has not given") from None


def _packed(numbers: list[int]) -> bytes:
    values = array.array("I", numbers)
    if sys.byteorder == "little":
        values.byteswap()
    return values.tobytes()


def _unpacked(data: bytes) -> array.array[int]:
    values = array.array("I", data)
    if sys.byteorder == "little":
        values.byteswap()
    return values
