"""The last look at a container's files: when all stands still, beside the dump.

Most containers write nothing between the first pass and the freeze. Where the tree is found to be
as it was before the first pass began (rootfs_changes.py), that is all that happens: milliseconds,
where the two halves of an rsync take tens of them to find the same.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from criu_rpc.logger import Logger
from migrator import rootfs
from migrator.bandwidth import Limiter
from migrator.dataplane import hang_up
from migrator.rootfs_changes import Snapshot

logger = Logger(__name__)


class FinalSync:
    """One pass in a thread of its own, from `start` to `finish` or `abort`."""

    def __init__(
        self,
        tree: Path,
        streams: Sequence[ssl.SSLSocket],
        mapped: Callable[[], list[str]],
        snapshot: Snapshot | None,
        *,
        limiter: Limiter | None = None,
    ) -> None:
        """streams: two for rsync, opened before the freeze, ours from now on.

        mapped: the files whose times say nothing, as Source.mapped_files has them, asked when all
        stands still. snapshot: of *tree*, taken before the first pass; None, or one that does not
        hold now: rsync looks in any case, since a tree that changes will have changed again.
        """
        self._tree, self._streams, self._mapped = tree, streams, mapped
        self._snapshot = snapshot if snapshot is not None and snapshot.holds() else None
        self._limiter = limiter
        self._sent = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="final-sync", daemon=True)

    def start(self) -> None:
        """Begin: all stands still."""
        self._thread.start()

    def finish(self, alive: Callable[[], None]) -> int:
        """Wait for it (starting it if nothing did); the bytes sent. What *alive* raises ends it."""
        if self._thread.ident is None:
            self._thread.start()
        while self._thread.is_alive():
            self._thread.join(0.1)
            alive()
        if self._error is not None:
            raise self._error
        return self._sent

    def abort(self) -> None:
        """Give up; the far side then has a part."""
        for stream in self._streams:
            hang_up(stream)
        if self._thread.ident is None:
            self._close()
        else:
            self._thread.join(5.0)

    def _run(self) -> None:
        try:
            self._sync()
        except BaseException as error:  # noqa: BLE001 - finish() raises it in the caller's thread
            self._error = error
        finally:
            self._close()

    def _close(self) -> None:
        for stream in self._streams:
            stream.close()

    def _sync(self) -> None:
        if self._snapshot is not None and self._snapshot.holds():
            logger.debug("%s is as it was sent", self._tree)
        else:
            self._sent += rootfs.push(self._tree, self._streams[0], limiter=self._limiter)
        if mapped := self._mapped():
            self._sent += rootfs.push(
                self._tree, self._streams[1], only=mapped, limiter=self._limiter
            )
