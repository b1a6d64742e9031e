"""What Intel RDT says of a container: its share of the cache and of the memory bandwidth.

Read only, where the resctrl filesystem is mounted. Kernel documentation: filesystems/resctrl.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runtime.rootfs import mountinfo

# Directories of the root that are no groups.
_NO_GROUPS = ("info", "mon_groups", "mon_data")


@dataclass(frozen=True, slots=True)
class L3Info:
    """The L3 cache as it can be divided."""

    cbm_mask: str
    min_cbm_bits: int
    num_closids: int


@dataclass(frozen=True, slots=True)
class BandwidthInfo:
    """The memory bandwidth as it can be divided, in percent."""

    bandwidth_gran: int
    delay_linear: int
    min_bandwidth: int
    num_closids: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RdtStats:
    """The group that a process is in; monitored in bytes for each L3 cache, by the cache's number.

    A process in the root group is monitored together with the host's: nothing is then said.
    """

    l3_info: L3Info | None = None
    bandwidth_info: BandwidthInfo | None = None
    root_schemata: tuple[str, ...] = ()
    schemata: tuple[str, ...] = ()
    #: file name (mbm_total_bytes, mbm_local_bytes, llc_occupancy) -> a value for each cache
    monitored: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def schema(self, resource: str, *, root: bool = False) -> str:
        """The line of *resource*: "L3" or "MB"; "" without one."""
        lines = self.root_schemata if root else self.schemata
        return next((line for line in lines if line.startswith(resource)), "")


def root() -> Path | None:
    """Where resctrl is mounted; None where it is not."""
    return next((Path(each.point) for each in mountinfo.of_thread("resctrl")), None)


def of_process(pid: int) -> RdtStats | None:
    """What the host's RDT says of *pid*; None where it has none."""
    at = root()
    return None if at is None else read(at, pid)


def group_of(at: Path, pid: int) -> Path:
    """The group that *pid* is in, of the resctrl at *at*; that itself is the host's."""
    return next((each for each in _groups(at) if _has(each, pid)), at)


def read(at: Path, pid: int) -> RdtStats:
    """What the resctrl filesystem at *at* says of *pid*."""
    group = group_of(at, pid)
    return RdtStats(
        l3_info=_l3_info(at / "info/L3"),
        bandwidth_info=_bandwidth_info(at / "info/MB"),
        root_schemata=_schemata(at),
        schemata=_schemata(group),
        monitored=() if group == at else tuple(_monitored(group)),
    )


def _groups(at: Path) -> Iterator[Path]:
    for each in sorted(at.iterdir()):
        if each.is_dir() and each.name not in _NO_GROUPS:
            yield each


def _has(group: Path, pid: int) -> bool:
    with suppress(OSError):  # removed meanwhile
        return str(pid) in (group / "tasks").read_text().split()
    return False


def _schemata(group: Path) -> tuple[str, ...]:
    return tuple(line.strip() for line in _text(group / "schemata").splitlines())


def _l3_info(info: Path) -> L3Info | None:
    if not info.is_dir():
        return None
    mask = _text(info / "cbm_mask")
    return L3Info(mask, _number(info / "min_cbm_bits"), _number(info / "num_closids"))


def _bandwidth_info(info: Path) -> BandwidthInfo | None:
    if not info.is_dir():
        return None
    names = ("bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids")
    return BandwidthInfo(*(_number(info / name) for name in names))


def _monitored(group: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    caches = sorted((group / "mon_data").glob("mon_L3_*"))
    for name in ("mbm_total_bytes", "mbm_local_bytes", "llc_occupancy"):
        values = tuple(_number(cache / name) for cache in caches if (cache / name).exists())
        if values:
            yield name, values


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""


def _number(path: Path) -> int:
    text = _text(path)  # "Unavailable", "Error": the hardware has no value now
    return int(text) if text.isdigit() else 0
