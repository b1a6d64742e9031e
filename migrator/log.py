"""Where messages go: the log file of --log, and standard error; in runc's two formats.

Callers of a container runtime read its errors from the log file: one record a line, either
`time="..." level=error msg="..."` or `{"level":"error","msg":"...","time":"..."}`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from criu_rpc.logger import configure_with

PACKAGES = ("migrator", "runtime", "criu_rpc", "scenarios")
#: whose records are steps at best: what failed, their caller says in its own error
LIBRARIES = ("paramiko",)
FORMATS = ("text", "json")


def configure(*, path: Path | None = None, form: str = "text", debug: bool = False) -> None:
    """Set up the logging of all our packages; raises OSError when *path* cannot be written.

    Without a file everything goes to standard error; with one, only what failed goes there too.
    A person reads that, unless every step is asked for: then it has the file's form.
    """
    if path is not None:
        path = path.absolute()
        with path.open("ab"):
            pass
    if debug:
        import logging  # noqa: F401, PLC0415 - from now on steps are logged
    configure_with(partial(_configure, path, form, debug=debug))


def _configure(path: Path | None, form: str, *, debug: bool) -> None:
    import logging  # noqa: PLC0415 - lazy: when there is something to log

    from migrator.log_formats import FORMATTERS, PlainFormatter  # noqa: PLC0415 - imports logging

    for former in logging.getLogger(PACKAGES[0]).handlers:
        former.close()
    level = logging.DEBUG if debug else logging.INFO
    stderr = logging.StreamHandler()
    handlers: list[logging.Handler] = [stderr]
    if path is None:
        plain = form == "text" and not debug
        stderr.setFormatter(PlainFormatter() if plain else FORMATTERS[form]())
        stderr.setLevel(logging.DEBUG if debug else logging.WARNING)
    else:
        stderr.setFormatter(PlainFormatter())
        stderr.setLevel(logging.ERROR)
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(FORMATTERS[form]())
        handlers.append(file)
    for name in (*PACKAGES, *LIBRARIES) if debug else PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        logger.handlers = handlers
