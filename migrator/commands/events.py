"""`migrator events`: the statistics of a container, and when it runs out of memory."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from migrator.commands._common import on_container
from migrator.commands._options import Kind
from migrator.commands._verb import option, verb
from runtime.container import Container
from runtime.errors import NotRunning

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")


def seconds(text: str) -> float:
    """A time as Go programs take it, `1m30s`; ValueError for none, and for 0."""
    parts = _PART.findall(text)
    found = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text or found <= 0:
        raise ValueError(f"{text!r} is no time above 0: write it as 5s, 500ms or 1m30s")
    return found


@verb()
@on_container
@option(
    "--interval",
    "interval_s",
    kind=Kind(seconds),
    default="5s",
    show_default=True,
    metavar="DURATION",
    help="Between two looks at the statistics.",
)
@option("--stats", "once", flag=True, help="Print the statistics once, and end.")
def command(container: Container, interval_s: float, once: bool) -> None:
    """Print what happens to CONTAINER as JSON, an event on each line, until it has ended.

    Statistics come at every interval, and a line when the kernel ends a process of it for want of
    memory.
    """
    if once:
        _print_stats(container)
    else:
        _stream(container, interval_s)


def _stream(container: Container, interval_s: float) -> None:
    due_s = time.monotonic() + interval_s
    with container.notify_oom() as oom:
        while not oom.ended:
            for _ in range(oom.wait(max(due_s - time.monotonic(), 0))):
                _print("oom", container)
            if not oom.ended and time.monotonic() >= due_s:
                due_s += interval_s
                try:
                    _print_stats(container)
                except NotRunning:
                    continue  # it is ending: what it ended of may still come


def _print_stats(container: Container) -> None:
    from migrator.commands._stats_json import stats_json

    _print("stats", container, data=stats_json(container.stats()))


def _print(kind: str, container: Container, **data: Any) -> None:
    print(json.dumps({"type": kind, "id": container.id, **data}, separators=(",", ":")), flush=True)
