"""The loggers of all packages: logging is imported when there is something to say, and not before.

It brings traceback, tokenize, threading and more along, 6 ms of the 30 that a short command takes.
The packages above use this one too; each record goes to the standard logger of the same name, so
that whoever embeds a package configures logging as for any other library.
"""

from __future__ import annotations

import sys
from _thread import RLock  # threading is not here yet either
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

_configure: Callable[[], None] | None = None
# Held while it is carried out: what other threads have to say comes after it.
_configuring = RLock()


def configure_with(configure: Callable[[], None]) -> None:
    """Have *configure* called before the first record is passed on: now, if one was."""
    global _configure
    _configure = configure
    if "logging" in sys.modules:
        _run_configure()


def _run_configure() -> None:
    global _configure
    with _configuring:
        if _configure:
            configure, _configure = _configure, None
            configure()


class Logger:
    """The logger of a module: the methods of logging.Logger that are used here."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, message: str, *args: Any, **how: Any) -> None:
        """Whoever wants these has imported logging, to say so."""
        if "logging" in sys.modules:
            self.standard.debug(message, *args, **how)

    def info(self, message: str, *args: Any, **how: Any) -> None:
        """Wanted by who has configured something."""
        if _configure or "logging" in sys.modules:
            self.standard.info(message, *args, **how)

    def warning(self, message: str, *args: Any, **how: Any) -> None:
        """Wanted always."""
        self.standard.warning(message, *args, **how)

    def error(self, message: str, *args: Any, **how: Any) -> None:
        """Wanted always."""
        self.standard.error(message, *args, **how)

    @property
    def standard(self) -> logging.Logger:
        """The standard library's logger of that name, configured."""
        import logging  # noqa: PLC0415 - lazy: 6 ms

        _run_configure()
        return logging.getLogger(self._name)

    @property
    def debugs(self) -> bool:
        """Whether anybody wants debug records."""
        return "logging" in sys.modules and self.standard.isEnabledFor(10)
