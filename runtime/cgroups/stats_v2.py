"""Read what the cgroup of a v2 host counts. Kernel documentation: cgroup-v2.rst, psi.rst."""

from __future__ import annotations

from pathlib import Path

from runtime.cgroups import counters, tree
from runtime.cgroups.stats import (
    NO_LIMIT,
    BlockIoStats,
    CgroupStats,
    CpuStats,
    HugetlbStats,
    MemoryCounter,
    MemoryStats,
    PidsStats,
    Pressure,
    RdmaStats,
)


def read(directory: Path) -> CgroupStats:
    """What *directory* counts; a controller that is not enabled for it counts nothing."""
    return CgroupStats(
        cpu=_cpu(directory),
        memory=_memory(directory),
        pids=_pids(directory),
        block_io=_block_io(directory),
        hugetlb=_hugetlb(directory),
        rdma=RdmaStats(
            limit=counters.rdma(tree.read_some(directory / "rdma.max")),
            current=counters.rdma(tree.read_some(directory / "rdma.current")),
        ),
    )


def _cpu(directory: Path) -> CpuStats:
    stat = counters.flat_keyed(tree.read_some(directory / "cpu.stat"))
    return CpuStats(
        total_ns=1000 * stat.get("usage_usec", 0),
        kernel_ns=1000 * stat.get("system_usec", 0),
        user_ns=1000 * stat.get("user_usec", 0),
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_ns=1000 * stat.get("throttled_usec", 0),
        burst_periods=stat.get("nr_bursts", 0),
        burst_ns=1000 * stat.get("burst_usec", 0),
        pressure=_pressure(directory, "cpu"),
    )


def _memory(directory: Path) -> MemoryStats:
    raw = counters.flat_keyed(tree.read_some(directory / "memory.stat"))
    usage = _memory_counter(directory, "memory")
    swap = _memory_counter(directory, "memory.swap")
    limits = (usage.limit, swap.limit)
    return MemoryStats(
        cache=raw.get("file", 0),
        usage=usage,
        # v2 counts swap alone; whoever reads this knows it from v1, together with memory.
        swap=MemoryCounter(
            usage=usage.usage + swap.usage,
            limit=NO_LIMIT if NO_LIMIT in limits else sum(limits),
            failures=swap.failures,
        ),
        raw=raw,
        pressure=_pressure(directory, "memory"),
    )


def _memory_counter(directory: Path, kind: str) -> MemoryCounter:
    def text(name: str) -> str:
        return tree.read_some(directory / f"{kind}.{name}")

    return MemoryCounter(
        usage=counters.number(text("current")),
        max_usage=counters.number(text("peak")),
        limit=counters.number(text("max")),
        failures=counters.flat_keyed(text("events")).get("max", 0),
    )


def _pids(directory: Path) -> PidsStats:
    current = tree.read_some(directory / "pids.current")
    limit = tree.read_some(directory / "pids.max")
    return PidsStats(
        current=int(current) if current else len(tree.processes(directory)),
        limit=0 if limit == "max" else counters.number(limit),
    )


def _block_io(directory: Path) -> BlockIoStats:
    service_bytes, serviced = counters.io_stat(tree.read_some(directory / "io.stat"))
    return BlockIoStats(
        service_bytes=service_bytes, serviced=serviced, pressure=_pressure(directory, "io")
    )


def _hugetlb(directory: Path) -> dict[str, HugetlbStats]:
    files = directory.glob("hugetlb.*.current")
    sizes = sorted(file.name.split(".")[1] for file in files if ".rsvd." not in file.name)
    return {size: _huge_pages(directory, size) for size in sizes}


def _huge_pages(directory: Path, size: str) -> HugetlbStats:
    usage = tree.read_some(directory / f"hugetlb.{size}.rsvd.current")
    if not usage:
        usage = tree.read_some(directory / f"hugetlb.{size}.current")
    events = counters.flat_keyed(tree.read_some(directory / f"hugetlb.{size}.events"))
    return HugetlbStats(usage=counters.number(usage), failures=events.get("max", 0))


def _pressure(directory: Path, resource: str) -> Pressure | None:
    return counters.pressure(tree.read_some(directory / f"{resource}.pressure"))
