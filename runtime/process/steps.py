"""The steps of init: one that fails is told to the runtime in one line, and ends init."""

from __future__ import annotations

import os
import sys

from runtime.constants import PR_SET_DUMPABLE
from runtime.process.channel import FAILED, Channel
from runtime.syscalls import close_all_from, close_range_cloexec, default_signal, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Protocol

    class Listener(Protocol):
        """Where the failure is told."""

        def send(self, kind: str, *fields: str | int) -> None: ...


_SIGINT = 2


class Steps:
    """`with step("changing directory"): ...`, with the same object for one step after the other."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._name = "starting"

    def __call__(self, name: str) -> Steps:
        self._name = name
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Say what failed, and end this process at once: nothing of ours runs on in a container."""
        path, number, reason = "", 0, f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
            number, reason = error.errno or 0, error.strerror or reason
        try:
            self.listener.send(FAILED, self._name, path, number, reason)
        finally:
            os._exit(1)


def begin(numbers: tuple[str, ...]) -> tuple[Channel, Steps]:
    """What each interpreter that goes into a container does first.

    numbers: of the descriptor to talk with the runtime on, then of the others that it was given.
    Nobody may trace it, it catches no signal, and it has nothing else of what it inherited from
    whoever started the runtime; no program that it starts has those.
    """
    prctl(PR_SET_DUMPABLE, 0)
    fds = tuple(map(int, numbers))
    channel = Channel(fds[0])
    close_all_from(3, fds)
    close_range_cloexec(3)
    default_signal(_SIGINT)  # Python would raise KeyboardInterrupt
    return channel, Steps(channel)


def seal() -> None:
    """Have every further import fail: it would take its module from the container's filesystem."""
    sys.meta_path.clear()
    sys.path.clear()
