"""Undo written beside do: what is to be taken back when a later step fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import ParamSpec

from criu_rpc.logger import Logger

logger = Logger(__name__)

_P = ParamSpec("_P")


class Undo(ExitStack):
    """An ExitStack whose `on_error` callbacks run only on the way out of a failure, last first.

    One that fails itself is logged and noted on the first error, which goes on.
    """

    def on_error(self, function: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Call *function* when the block is left by an exception."""

        def leave(
            _kind: type[BaseException] | None,
            error: BaseException | None,
            _trace: TracebackType | None,
        ) -> None:
            if error is None:
                return
            try:
                function(*args, **kwargs)
            except Exception as exc:  # noqa: BLE001 - it must not hide the first error
                logger.warning("undoing failed: %s", exc)
                error.add_note(f"undoing failed too: {exc}")

        self.push(leave)
