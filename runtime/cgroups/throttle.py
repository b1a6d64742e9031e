"""Slow a container down, and let it go at its own speed again.

A share of the CPU that it uses, not of the host's: half of nothing would still be nothing. Kernel
documentation: scheduler/sched-bwc.rst, admin-guide/cgroup-v1/cpuacct.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from runtime.cgroups import tree
from runtime.cgroups.base import CgroupManager
from runtime.errors import CgroupError

_PERIOD_US = 20_000  # short, so that it stands still for short times
_LEAST_US = 1_000  # what the kernel takes at least


class CpuThrottle:
    """The CPU quota of one container. `former` is what `restore` needs, also after a crash."""

    def __init__(self, cgroup: CgroupManager) -> None:
        """Raises CgroupError where the cgroup has no CPU controller."""
        self._files = _files(cgroup)
        self.former = {str(path): tree.read(path) for path in self._files.limits}
        self._used_at = self._usage()

    def set(self, share: float) -> None:
        """Leave it *share* of the CPU that it has used since the last call; 1.0: all."""
        used_us, at_us = self._usage()
        used_before_us, before_us = self._used_at
        self._used_at = used_us, at_us
        if share >= 1.0:
            restore(self.former)
            return
        cpus = (used_us - used_before_us) / max(at_us - before_us, 1)
        quota_us = max(int(cpus * share * _PERIOD_US), _LEAST_US)
        for path, value in self._files.limited(quota_us):
            tree.write(path, value)

    def _usage(self) -> tuple[int, int]:
        """CPU time and time, us."""
        return self._files.usage_us(), time.monotonic_ns() // 1000


def restore(former: dict[str, str]) -> None:
    """Write back what a throttle found. A cgroup that is gone is no fault."""
    for path, value in former.items():
        with suppress(CgroupError):
            tree.write(Path(path), value)


class _V1:
    def __init__(self, cpu: Path, cpuacct: Path) -> None:
        self._quota, self._period = cpu / "cpu.cfs_quota_us", cpu / "cpu.cfs_period_us"
        self._used = cpuacct / "cpuacct.usage"
        self.limits = (self._quota, self._period)

    def usage_us(self) -> int:
        return int(tree.read(self._used)) // 1000

    def limited(self, quota_us: int) -> list[tuple[Path, str]]:
        return [(self._period, str(_PERIOD_US)), (self._quota, str(quota_us))]


class _V2:
    def __init__(self, directory: Path) -> None:
        self._max, self._stat = directory / "cpu.max", directory / "cpu.stat"
        self.limits = (self._max,)

    def usage_us(self) -> int:
        fields = dict(line.split() for line in tree.read(self._stat).splitlines())
        return int(fields["usage_usec"])

    def limited(self, quota_us: int) -> list[tuple[Path, str]]:
        return [(self._max, f"{quota_us} {_PERIOD_US}")]


def _files(cgroup: CgroupManager) -> _V1 | _V2:
    if "" in cgroup.paths:
        return _V2(cgroup.paths[""])
    try:
        return _V1(cgroup.paths["cpu"], cgroup.paths["cpuacct"])
    except KeyError as exc:
        raise CgroupError(cgroup.directories[0], f"has no controller {exc}: no CPU quota") from exc
