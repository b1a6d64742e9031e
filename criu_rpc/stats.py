"""CRIU's own measurements: stats-dump and stats-restore (images/stats.proto).

Times are microseconds, sizes are pages of the host's page size.
"""

import struct
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from criu_rpc import proto
from criu_rpc.logger import Logger

# image files: magic of service files, magic of this one, size of the entry, entry (magic.h)
_MAGIC = struct.pack("<II", 0x55105940, 0x57093306)
_HEADER_BYTES = len(_MAGIC) + 4

logger = Logger(__name__)


@dataclass(frozen=True, slots=True)
class DumpStats:
    """What a dump cost; all zero when CRIU left no statistics."""

    freezing_time_us: int = 0
    frozen_time_us: int = 0
    memdump_time_us: int = 0
    memwrite_time_us: int = 0
    pages_scanned: int = 0
    pages_skipped_parent: int = 0
    pages_written: int = 0
    pages_lazy: int = 0
    shpages_scanned: int = 0
    shpages_skipped_parent: int = 0
    shpages_written: int = 0


@dataclass(frozen=True, slots=True)
class RestoreStats:
    """What a restore cost; all zero when CRIU left no statistics."""

    forking_time_us: int = 0
    restore_time_us: int = 0
    pages_compared: int = 0
    pages_skipped_cow: int = 0
    pages_restored: int = 0


_S = TypeVar("_S", DumpStats, RestoreStats)


def dump_stats(directory: Path) -> DumpStats:
    """Read *directory*/stats-dump."""
    return _read(directory / "stats-dump", "dump", DumpStats)


def restore_stats(directory: Path) -> RestoreStats:
    """Read *directory*/stats-restore."""
    return _read(directory / "stats-restore", "restore", RestoreStats)


def write_dump_stats(directory: Path, stats: DumpStats) -> None:
    """Write *directory*/stats-dump, as CRIU does. Raises OSError."""
    message = proto.stats().stats_entry()
    for field in fields(stats):
        setattr(message.dump, _criu_name(field.name), getattr(stats, field.name))
    entry = message.SerializeToString()
    (directory / "stats-dump").write_bytes(_MAGIC + struct.pack("<I", len(entry)) + entry)


def _read(path: Path, kind: str, stats: type[_S]) -> _S:
    # the work is done when statistics are read: their absence must not turn it into a failure
    try:
        entry = getattr(_entry(path), kind)
        return stats(**{f.name: getattr(entry, _criu_name(f.name)) for f in fields(stats)})
    except (OSError, ValueError) as error:
        logger.warning("no statistics in %s: %s", path, error)
        return stats()


def _entry(path: Path) -> Any:
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - lazy: 30 ms

    data = path.read_bytes()
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError("not a statistics file")
    try:
        return proto.stats().stats_entry.FromString(data[_HEADER_BYTES:])
    except DecodeError as error:
        raise ValueError(str(error)) from error


def _criu_name(name: str) -> str:
    return name.removesuffix("_us")
