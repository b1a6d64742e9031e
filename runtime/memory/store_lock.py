"""The lock of a store between all threads and processes that change it."""

from __future__ import annotations

import fcntl
import threading

from runtime.memory.page_table import PageTable


class StoreLock:
    """Context manager, which may be entered again within; the table is then as others left it.

    flock(2), which goes with the open file: it ends with its last holder, and processes that share
    their descriptors share it.
    """

    def __init__(self, table: PageTable) -> None:
        self._table = table
        self._thread = threading.RLock()
        self._depth = 0

    def __enter__(self) -> None:
        self._thread.acquire()
        if not self._depth:
            try:
                fcntl.flock(self._table.lock_fd, fcntl.LOCK_EX)
            except BaseException:
                self._thread.release()
                raise
        self._depth += 1
        self._table.refresh()

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        if not self._depth:
            fcntl.flock(self._table.lock_fd, fcntl.LOCK_UN)
        self._thread.release()
