"""Ctrl-C and SIGTERM in a migration: an error where it can be undone, a note where not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, signals raise KeyboardInterrupt; after `hold` they only wait.

    Outside of the main thread (an embedding program) signals are left to that program.
    """

    def __init__(self) -> None:
        self._held = False
        self._undo: Callable[[], bool] | None = None
        self._pending: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From here on nothing interrupts: the commit is near, or an undo is at work."""
        self._held = True

    def allow(self) -> None:
        """What came since `hold`, and what comes, interrupts again."""
        self._held = False
        self.check()

    def allow_if(self, undo: Callable[[], bool]) -> None:
        """The same, each time asking undo() first: False if it is too late."""
        self._undo = undo
        self.allow()

    def check(self) -> None:
        """Raise what came meanwhile."""
        if self._pending is not None and not self._held and (not self._undo or self._undo()):
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._pending = number
        self.check()
