"""A file mapped whole and shared, of a size fixed when it is made; what it holds outlives us.

Sparse: it takes room only where `ensure` was asked for it, for a write to a mapping that finds the
filesystem full is no error but SIGBUS.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_STEP = 1 << 18


class SharedFile:
    """`view`: all of its bytes, writable."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        """Make it, of *size* bytes; without one, open what is there."""
        self.path = path
        flags = _FLAGS if size is None else _FLAGS | os.O_CREAT | os.O_EXCL
        self.fd = os.open(path, flags, 0o600)
        if size is not None:
            os.ftruncate(self.fd, size)
        self.size = os.fstat(self.fd).st_size
        self._map = mmap.mmap(self.fd, self.size)
        self.view = memoryview(self._map)
        self._ensured = 0

    def ensure(self, end: int) -> None:
        """Have room for the bytes up to *end*; OSError (ENOSPC) where there is none."""
        if end > self._ensured:
            upto = min(-(-end // _STEP) * _STEP, self.size)
            os.posix_fallocate(self.fd, self._ensured, upto - self._ensured)
            self._ensured = upto

    def close(self) -> None:
        """Let go of it; where somebody has a view of it yet, the mapping goes with that one."""
        self.view.release()
        with suppress(BufferError):
            self._map.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
