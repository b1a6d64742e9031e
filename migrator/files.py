"""The files of a container on their way: while it runs, and what changed since under the freeze."""

from __future__ import annotations

from collections.abc import Callable

from migrator import rootfs
from migrator.bandwidth import Limiter
from migrator.destination import DestinationAgent
from migrator.final_sync import FinalSync
from migrator.rootfs_changes import Snapshot
from migrator.source import Source


class Files:
    """Both passes over the rootfs of one container; nothing is sent by itself."""

    def __init__(self, source: Source, agent: DestinationAgent, limiter: Limiter) -> None:
        self._source, self._agent, self._limiter = source, agent, limiter
        self._tree = source.container.state.rootfs
        self._mapped: set[str] = set()
        self._snapshot: Snapshot | None = None
        self._last: FinalSync | None = None
        self.bytes_sent = 0

    def send(self) -> None:
        """The first pass: whatever it does meanwhile is looked at again."""
        self._mapped |= set(self._source.mapped_files())
        self._snapshot = Snapshot.of(self._tree)
        with self._agent.open_stream("rsync") as stream:
            self.bytes_sent += rootfs.push(self._tree, stream, frozen=False, limiter=self._limiter)

    def arm(self) -> None:
        """Open all that the second pass needs, before the freeze."""
        streams = [self._agent.open_stream("rsync") for _ in range(2)]
        self._last = FinalSync(
            self._tree, streams, self._mapped_now, self._snapshot, limiter=self._limiter
        )

    def start(self) -> None:
        """The second pass begins: all stands still."""
        assert self._last is not None
        self._last.start()

    def finish(self, alive: Callable[[], None]) -> None:
        """Wait for the second pass, starting it if nothing did; what *alive* raises ends it."""
        assert self._last is not None
        self.bytes_sent += self._last.finish(alive)

    def abort(self) -> None:
        """Give up; the far side then has a part."""
        if self._last is not None:
            self._last.abort()

    def _mapped_now(self) -> list[str]:
        """Files whose times say nothing: see Source.mapped_files."""
        return self._source.existing(self._mapped | set(self._source.mapped_files()))
