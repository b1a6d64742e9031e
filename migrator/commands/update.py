"""`migrator update`: other limits for a container that runs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from migrator.commands._common import on_container
from migrator.commands._options import FILE, TEXT, Kind, Option, integer
from migrator.commands._verb import option, taking, verb
from migrator.errors import UsageProblem
from runtime.container import Container

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_EXPONENTS = {letter: exponent for exponent, letter in enumerate(("", *"kmgtp"))}


def size_bytes(text: str) -> int:
    """`512m`, `1.5GiB`, `4096`: units are powers of 1024; -1: no limit. ValueError for others."""
    if text == "-1":
        return -1
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size: write it as 4096, 512m or 1g, or -1 for no limit")
    return int(float(found[1]) * 1024 ** _EXPONENTS[found[2].lower()])


_NUMBER, _BYTES = integer(), Kind(size_bytes)


def _limit(flag: str, section: str, field: str, text: str, kind: Kind = _NUMBER) -> Option:
    """The option *flag* for linux.resources.*section*.*field*."""
    metavar = "BYTES" if kind is _BYTES else None
    return Option(flag, f"{section}__{field}", kind=kind, metavar=metavar, help=text)


_LIMITS = (
    _limit("--blkio-weight", "blockIO", "weight", "Share of block I/O, 10 to 1000."),
    _limit("--cpu-period", "cpu", "period", "Period of the quota, in microseconds."),
    _limit(
        "--cpu-quota", "cpu", "quota", "CPU time in each period, in microseconds; -1: no limit."
    ),
    _limit("--cpu-burst", "cpu", "burst", "CPU time that may be saved up, in microseconds."),
    _limit("--cpu-share", "cpu", "shares", "Share of the CPUs beside other containers."),
    _limit("--cpu-rt-period", "cpu", "realtimePeriod", "Realtime period, in microseconds."),
    _limit("--cpu-rt-runtime", "cpu", "realtimeRuntime", "Realtime in each, in microseconds."),
    _limit("--cpu-idle", "cpu", "idle", "1: run only where nobody else wants to; 0: as others."),
    _limit("--cpuset-cpus", "cpu", "cpus", "CPUs to run on, as 0-3,7.", TEXT),
    _limit("--cpuset-mems", "cpu", "mems", "Memory nodes to use.", TEXT),
    _limit("--memory", "memory", "limit", "Memory, as 512m; -1: no limit.", _BYTES),
    _limit("--memory-reservation", "memory", "reservation", "What to shrink to.", _BYTES),
    _limit("--memory-swap", "memory", "swap", "Memory and swap; -1: no limit.", _BYTES),
    _limit("--kernel-memory", "memory", "kernel", "Ignored, as by runc.", _BYTES),
    _limit("--kernel-memory-tcp", "memory", "kernelTCP", "Ignored, as by runc.", _BYTES),
    _limit("--pids-limit", "pids", "limit", "Processes and threads; -1: no limit."),
)


@verb()
@on_container
@option(
    "-r",
    "--resources",
    "file",
    kind=FILE,
    help="All of it as JSON, OCI's linux.resources; - is standard input.",
)
@taking(*_LIMITS)
@option("--l3-cache-schema", metavar="LINE", help="Share of the L3 cache, as L3:0=f;1=f.")
@option("--mem-bw-schema", metavar="LINE", help="Memory bandwidth, as MB:0=20;1=70.")
def command(
    container: Container,
    file: Path | None,
    l3_cache_schema: str | None,
    mem_bw_schema: str | None,
    **limits: Any,
) -> None:
    """Change the limits of CONTAINER while it runs; what is not given stays as it is.

    With --resources the other options are not read. When one limit cannot be set, all stay as they
    were.
    """
    schemata = [line for line in (l3_cache_schema, mem_bw_schema) if line]
    container.set(_read(file) if file else nested(limits), schemata=schemata)


def nested(limits: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{"memory__limit": 1} -> {"memory": {"limit": 1}}, without what was not given."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in limits.items():
        section, _, field = name.partition("__")
        if value is not None:
            found.setdefault(section, {})[field] = value
    return found


def _read(file: Path) -> dict[str, Any]:
    where = "standard input" if str(file) == "-" else str(file)
    try:
        found = json.loads(sys.stdin.read() if str(file) == "-" else file.read_text())
    except OSError as exc:
        raise UsageProblem(f"{where}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise UsageProblem(f"{where}: not valid JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise UsageProblem(f"{where}: expected an object with the fields of linux.resources")
    return found
