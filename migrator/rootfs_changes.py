"""Whether a tree of files changed since it was looked at: what spares an rsync under the freeze.

Every change of a file, of what it holds as of what is known about it, sets its status change time,
and nobody can set that back (inode(7), "ctime"). Only a store into a mapping may not: files that
are mapped shared and writable have to be asked for otherwise.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

# The kernel's clock of file times ticks: a change may bear the time of the tick before it, and two
# in one tick bear the same (timestamps are finer since Linux 6.13, on some filesystems).
_TICK_NS = 20_000_000


class Snapshot:
    """How a tree was when it was looked at, as far as rsync --one-file-system would look."""

    def __init__(self, root: Path, seen: dict[str, tuple[int, int]], settled: bool) -> None:
        self._root, self._seen, self._settled = root, seen, settled

    @classmethod
    def of(cls, root: Path) -> Self:
        """Look at the tree now; what comes and goes meanwhile makes it a tree that changes."""
        before_ns = time.time_ns() - _TICK_NS
        try:
            seen = dict(_entries(root))
        except OSError:
            return cls(root, {}, settled=False)
        return cls(root, seen, all(changed < before_ns for _, changed in seen.values()))

    def holds(self) -> bool:
        """Whether the tree is still just so; False also when that cannot be told."""
        if not self._settled:
            return False
        count = 0
        try:
            for path, state in _entries(self._root):
                if self._seen.get(path) != state:
                    return False
                count += 1
        except OSError:
            return False
        return count == len(self._seen)


def _entries(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Path -> inode and status change time."""
    top = root.stat()
    yield "", (top.st_ino, top.st_ctime_ns)
    pending = [str(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                yield entry.path, (status.st_ino, status.st_ctime_ns)
                if stat.S_ISDIR(status.st_mode) and status.st_dev == top.st_dev:
                    pending.append(entry.path)
