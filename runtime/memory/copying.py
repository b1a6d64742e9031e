"""Memory of another process into a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from runtime.memory.runs import PAGE, Run, normalized

_PIECE_BYTES = 4 << 20


def copied(read_into: Callable[[memoryview, int], int], runs: Iterable[Run], fd: int) -> list[Run]:
    """Write the pages of *runs*, one after the other, to *fd*; returns those that were there.

    read_into: see Space.read_into; what it raises comes out, as does OSError of the writing.
    """
    return normalized(piece for run in runs for piece in _pieces(read_into, run, fd))


def _pieces(read_into: Callable[[memoryview, int], int], run: Run, fd: int) -> Iterator[Run]:
    at, end = run
    buffer = memoryview(bytearray(min(_PIECE_BYTES, end - at)))
    while at < end:
        length = read_into(buffer[: end - at], at) // PAGE * PAGE
        if length:
            write_all(fd, buffer[:length])
            yield at, at + length
        at += length or PAGE


def write_all(fd: int, data: memoryview) -> None:
    """Write all of it. Raises OSError."""
    while data:
        data = data[os.write(fd, data) :]
