"""Records of a log as lines, in runc's two formats and for a person."""

from __future__ import annotations

import json
import logging
import time


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


FORMATTERS = {"text": TextFormatter, "json": JsonFormatter}


def _fields(record: logging.LogRecord) -> dict[str, str]:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
    return {"level": _level(record), "msg": _message(record), "time": moment}


def _level(record: logging.LogRecord) -> str:
    return record.levelname.lower()


def _message(record: logging.LogRecord) -> str:
    """One line, but for a traceback."""
    message = " ".join(record.getMessage().split("\n"))
    # some of it is a container's: what its files are called is not for a terminal to obey
    message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info)
    return message
