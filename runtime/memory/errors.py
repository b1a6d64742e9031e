"""Errors of watching and keeping memory; leaves of the runtime's own tree."""

from __future__ import annotations

from runtime.errors import ContainerError


class TrackingFailed(ContainerError):
    """A process cannot be tracked, and going on would be wrong; nothing of it was changed."""

    def __init__(self, pid: int, why: str) -> None:
        super().__init__(f"writes of process {pid} cannot be tracked: {why}")
        self.pid = pid
        self.why = why


class TrackingUnavailable(ContainerError):
    """The way of tracking that was asked for does not work on this host."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"writes cannot be tracked by {kind} here: {why}")
        self.kind = kind
        self.why = why


class KeeperFailed(ContainerError):
    """The process that tracks a container between pre-dumps cannot do what it was asked."""

    def __init__(self, why: str) -> None:
        super().__init__(f"tracking its writes: {why}")
        self.why = why
