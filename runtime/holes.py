"""Where a file has bytes of its own, and where only holes (lseek(2) SEEK_DATA, SEEK_HOLE)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of what lies between the holes of the first *size* bytes. Raises OSError."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end - start
