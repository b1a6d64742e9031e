"""Where messages go: the log file of --log, and standard error; in runc's two formats.

Callers of a container runtime read its errors from the log file: one record a line, either
`time="..." level=error msg="..."` or `{"level":"error","msg":"...","time":"..."}`.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

PACKAGES = ("migrator", "runtime", "criu_rpc", "scenarios")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, keys as logrus has them."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of *record*."""
        return json.dumps(_fields(record), ensure_ascii=False, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """One line of key=value pairs, keys as logrus has them."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of *record*."""
        fields = _fields(record)
        message = json.dumps(fields["msg"], ensure_ascii=False)
        return f'time="{fields["time"]}" level={fields["level"]} msg={message}'


class PlainFormatter(logging.Formatter):
    """What a person reads on standard error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of *record*."""
        kind = "" if record.levelno >= logging.ERROR else f"{_level(record)}: "
        name = "" if getattr(record, "bare", False) else "migrator: "
        return f"{name}{kind}{_message(record)}"


FORMATS = {"text": TextFormatter, "json": JsonFormatter}


def configure(*, path: Path | None = None, form: str = "text", debug: bool = False) -> None:
    """Set up the logging of all our packages; raises OSError when *path* cannot be written.

    Without a file everything goes to standard error; with one, only what failed goes there too.
    A person reads that, unless every step is asked for: then it has the file's form.
    """
    for former in logging.getLogger(PACKAGES[0]).handlers:
        former.close()
    level = logging.DEBUG if debug else logging.INFO
    stderr = logging.StreamHandler()
    handlers: list[logging.Handler] = [stderr]
    if path is None:
        plain = form == "text" and not debug
        stderr.setFormatter(PlainFormatter() if plain else FORMATS[form]())
        stderr.setLevel(logging.DEBUG if debug else logging.WARNING)
    else:
        stderr.setFormatter(PlainFormatter())
        stderr.setLevel(logging.ERROR)
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(FORMATS[form]())
        handlers.append(file)
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        logger.handlers = handlers


def _fields(record: logging.LogRecord) -> dict[str, str]:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
    return {"level": _level(record), "msg": _message(record), "time": moment}


def _level(record: logging.LogRecord) -> str:
    return record.levelname.lower()


def _message(record: logging.LogRecord) -> str:
    """One line, but for a traceback."""
    message = " ".join(record.getMessage().split("\n"))
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info)
    return message
