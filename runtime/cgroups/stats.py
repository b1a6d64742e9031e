"""What cgroups count, in one shape for both versions: libcontainer's cgroups.Stats.

Sizes are in bytes, CPU times in nanoseconds. What a host does not count is 0 or empty; "no limit"
is the kernel's own largest number (NO_LIMIT on v2), but 0 for pids, as every runtime has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NO_LIMIT = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PressureLine:
    """Shares of time in percent over 10, 60 and 300 s, and all of it in microseconds."""

    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """How long some, and all, of the processes were waiting for a resource (PSI)."""

    some: PressureLine = PressureLine()
    full: PressureLine = PressureLine()


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuStats:
    """CPU time used, and time not got."""

    total_ns: int = 0
    kernel_ns: int = 0
    user_ns: int = 0
    percpu_ns: tuple[int, ...] = ()
    percpu_kernel_ns: tuple[int, ...] = ()
    percpu_user_ns: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    burst_periods: int = 0
    burst_ns: int = 0
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CpusetStats:
    """Where its processes may run, on v1; all 0 on v2."""

    cpus: tuple[int, ...] = ()
    mems: tuple[int, ...] = ()
    cpu_exclusive: int = 0
    mem_hardwall: int = 0
    mem_exclusive: int = 0
    memory_migrate: int = 0
    memory_spread_page: int = 0
    memory_spread_slab: int = 0
    memory_pressure: int = 0
    sched_load_balance: int = 0
    sched_relax_domain_level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCounter:
    """One kind of memory: what is used, was used at most, may be used, and how often it was not."""

    usage: int = 0
    max_usage: int = 0
    limit: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """Memory; *swap* counts memory and swap together, on v2 too."""

    cache: int = 0
    usage: MemoryCounter = MemoryCounter()
    swap: MemoryCounter = MemoryCounter()
    kernel: MemoryCounter = MemoryCounter()
    kernel_tcp: MemoryCounter = MemoryCounter()
    #: memory.stat as it is
    raw: Mapping[str, int] = field(default_factory=dict)
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PidsStats:
    """Processes and threads; limit 0: none."""

    current: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class BlockIoEntry:
    """One count of one device; *op* such as Read or Write, "" where it is of all."""

    major: int
    minor: int
    op: str
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockIoStats:
    """Block devices, named as the files of v1; v2 has the first two."""

    service_bytes: tuple[BlockIoEntry, ...] = ()
    serviced: tuple[BlockIoEntry, ...] = ()
    queued: tuple[BlockIoEntry, ...] = ()
    service_time: tuple[BlockIoEntry, ...] = ()
    wait_time: tuple[BlockIoEntry, ...] = ()
    merged: tuple[BlockIoEntry, ...] = ()
    time: tuple[BlockIoEntry, ...] = ()
    sectors: tuple[BlockIoEntry, ...] = ()
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HugetlbStats:
    """Huge pages of one size, in bytes; reservations, where the kernel counts them."""

    usage: int = 0
    max_usage: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class RdmaEntry:
    """One RDMA device."""

    device: str
    hca_handles: int
    hca_objects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RdmaStats:
    """RDMA devices: 2**32 - 1 where there is no limit."""

    limit: tuple[RdmaEntry, ...] = ()
    current: tuple[RdmaEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupStats:
    """All controllers of one container."""

    cpu: CpuStats = CpuStats()
    cpuset: CpusetStats = CpusetStats()
    memory: MemoryStats = field(default_factory=MemoryStats)
    pids: PidsStats = PidsStats()
    block_io: BlockIoStats = BlockIoStats()
    #: page size ("2MB") -> its pages
    hugetlb: Mapping[str, HugetlbStats] = field(default_factory=dict)
    rdma: RdmaStats = RdmaStats()
