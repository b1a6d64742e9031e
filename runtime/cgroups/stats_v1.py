"""Read what the cgroups of a v1 host count.

Kernel documentation: admin-guide/cgroup-v1/{cpuacct,cpusets,memory,pids,blkio-controller,hugetlb,
rdma}.rst, scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from runtime.cgroups import counters, kernel_numbers, tree
from runtime.cgroups.stats import (
    BlockIoEntry,
    BlockIoStats,
    CgroupStats,
    CpusetStats,
    CpuStats,
    HugetlbStats,
    MemoryCounter,
    MemoryStats,
    PidsStats,
    RdmaStats,
)

_CPUSET_NUMBERS = (
    *("cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page"),
    *("memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level"),
)
# Who counts block I/O: a scheduler with a group policy, or else what throttles. All of one family
# are read, never some of each: they do not count alike.
_BLOCK_IO_FAMILIES = (
    ("blkio.bfq.", "_recursive"),
    ("blkio.", "_recursive"),
    ("blkio.throttle.", "_recursive"),
    ("blkio.throttle.", ""),
)


def read(paths: Mapping[str, Path]) -> CgroupStats:
    """What the controllers of *paths* count; one that is not there counts nothing."""
    return CgroupStats(
        cpu=_cpu(paths.get("cpu"), paths.get("cpuacct")),
        cpuset=_cpuset(paths["cpuset"]) if "cpuset" in paths else CpusetStats(),
        memory=_memory(paths["memory"]) if "memory" in paths else MemoryStats(),
        pids=_pids(paths["pids"]) if "pids" in paths else PidsStats(),
        block_io=_block_io(paths["blkio"]) if "blkio" in paths else BlockIoStats(),
        hugetlb=_hugetlb(paths["hugetlb"]) if "hugetlb" in paths else {},
        rdma=_rdma(paths["rdma"]) if "rdma" in paths else RdmaStats(),
    )


def _cpu(cpu: Path | None, cpuacct: Path | None) -> CpuStats:
    throttled = counters.flat_keyed(tree.read_some(cpu / "cpu.stat")) if cpu else {}
    used, total, each, halves = {}, 0, "", ""
    if cpuacct:
        used = counters.flat_keyed(tree.read_some(cpuacct / "cpuacct.stat"))
        total = counters.number(tree.read_some(cpuacct / "cpuacct.usage"))
        each = tree.read_some(cpuacct / "cpuacct.usage_percpu")
        halves = tree.read_some(cpuacct / "cpuacct.usage_all")
    percpu_kernel, percpu_user = counters.usage_all(halves)
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return CpuStats(
        total_ns=total,
        kernel_ns=used.get("system", 0) * tick_ns,
        user_ns=used.get("user", 0) * tick_ns,
        percpu_ns=tuple(map(int, each.split())),
        percpu_kernel_ns=percpu_kernel,
        percpu_user_ns=percpu_user,
        periods=throttled.get("nr_periods", 0),
        throttled_periods=throttled.get("nr_throttled", 0),
        throttled_ns=throttled.get("throttled_time", 0),
        burst_periods=throttled.get("nr_bursts", 0),
        burst_ns=throttled.get("burst_time", 0),
    )


def _cpuset(directory: Path) -> CpusetStats:
    def text(name: str) -> str:
        return tree.read_some(directory / f"cpuset.{name}")

    numbers = {name: counters.number(text(name)) for name in _CPUSET_NUMBERS}
    cpus, mems = (tuple(sorted(kernel_numbers.numbers(text(name)))) for name in ("cpus", "mems"))
    return CpusetStats(cpus=cpus, mems=mems, **numbers)


def _memory(directory: Path) -> MemoryStats:
    raw = counters.flat_keyed(tree.read_some(directory / "memory.stat"))
    return MemoryStats(
        cache=raw.get("cache", 0),
        usage=_memory_counter(directory, "memory"),
        swap=_memory_counter(directory, "memory.memsw"),
        kernel=_memory_counter(directory, "memory.kmem"),
        kernel_tcp=_memory_counter(directory, "memory.kmem.tcp"),
        raw=raw,
    )


def _memory_counter(directory: Path, kind: str) -> MemoryCounter:
    def number(name: str) -> int:
        return counters.number(tree.read_some(directory / f"{kind}.{name}"))

    return MemoryCounter(
        usage=number("usage_in_bytes"),
        max_usage=number("max_usage_in_bytes"),
        limit=number("limit_in_bytes"),
        failures=number("failcnt"),
    )


def _pids(directory: Path) -> PidsStats:
    limit = tree.read_some(directory / "pids.max")
    return PidsStats(
        current=counters.number(tree.read_some(directory / "pids.current")),
        limit=0 if limit == "max" else counters.number(limit),
    )


def _block_io(directory: Path) -> BlockIoStats:
    families = (_block_io_family(directory, *family) for family in _BLOCK_IO_FAMILIES)
    return next((found for found in families if found != BlockIoStats()), BlockIoStats())


def _block_io_family(directory: Path, before: str, after: str) -> BlockIoStats:
    def entries(name: str) -> tuple[BlockIoEntry, ...]:
        return counters.block_io(tree.read_some(directory / f"{before}{name}{after}"))

    return BlockIoStats(
        service_bytes=entries("io_service_bytes"),
        serviced=entries("io_serviced"),
        queued=entries("io_queued"),
        service_time=entries("io_service_time"),
        wait_time=entries("io_wait_time"),
        merged=entries("io_merged"),
        time=entries("time"),
        sectors=entries("sectors"),
    )


def _hugetlb(directory: Path) -> dict[str, HugetlbStats]:
    return {size: _huge_pages(directory, size) for size in _page_sizes(directory)}


def _page_sizes(directory: Path) -> list[str]:
    files = directory.glob("hugetlb.*.max_usage_in_bytes")
    return sorted(file.name.split(".")[1] for file in files if ".rsvd." not in file.name)


def _huge_pages(directory: Path, size: str) -> HugetlbStats:
    kind = f"hugetlb.{size}.rsvd"
    if not (directory / f"{kind}.usage_in_bytes").exists():
        kind = f"hugetlb.{size}"
    counter = _memory_counter(directory, kind)
    return HugetlbStats(usage=counter.usage, max_usage=counter.max_usage, failures=counter.failures)


def _rdma(directory: Path) -> RdmaStats:
    return RdmaStats(
        limit=counters.rdma(tree.read_some(directory / "rdma.max")),
        current=counters.rdma(tree.read_some(directory / "rdma.current")),
    )
