"""The statistics of a container as `runc events` prints them: same names, same values left out.

What runc leaves out when it is 0 is left out here; objects are always there, so that a reader may
look into them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.cgroups.stats import (
        BlockIoEntry,
        BlockIoStats,
        CpuStats,
        HugetlbStats,
        MemoryCounter,
        MemoryStats,
        Pressure,
    )
    from runtime.network.counters import InterfaceStats
    from runtime.resctrl import RdtStats
    from runtime.stats import Stats


def stats_json(stats: Stats) -> dict[str, Any]:
    """The `data` of an event of type "stats"."""
    counted = stats.cgroup
    pids, cpuset = counted.pids, asdict(counted.cpuset)
    named = {name: list(cpuset.pop(name)) for name in ("cpus", "mems")}
    return {
        "cpu": _cpu(counted.cpu),
        "cpuset": {**_given(**named), **cpuset},
        "memory": _memory(counted.memory),
        "pids": _given(current=pids.current, limit=pids.limit),
        "blkio": _block_io(counted.block_io),
        "hugetlb": {size: _hugetlb(each) for size, each in counted.hugetlb.items()},
        "intel_rdt": {} if stats.rdt is None else _rdt(stats.rdt),
        "network_interfaces": [_interface(each) for each in stats.interfaces] or None,
    }


def _given(**values: Any) -> dict[str, Any]:
    """What Go's omitempty leaves of *values*."""
    return {name: value for name, value in values.items() if value}


def _cpu(cpu: CpuStats) -> dict[str, Any]:
    usage = _given(
        total=cpu.total_ns,
        percpu=list(cpu.percpu_ns),
        percpu_kernel=list(cpu.percpu_kernel_ns),
        percpu_user=list(cpu.percpu_user_ns),
    )
    throttling = _given(
        periods=cpu.periods,
        throttledPeriods=cpu.throttled_periods,
        throttledTime=cpu.throttled_ns,
    )
    return {
        "usage": {**usage, "kernel": cpu.kernel_ns, "user": cpu.user_ns},
        "throttling": throttling,
        **_pressure(cpu.pressure),
    }


def _memory(memory: MemoryStats) -> dict[str, Any]:
    return {
        **_given(cache=memory.cache),
        "usage": _memory_counter(memory.usage),
        "swap": _memory_counter(memory.swap),
        "kernel": _memory_counter(memory.kernel),
        "kernelTCP": _memory_counter(memory.kernel_tcp),
        **_given(raw=dict(memory.raw)),
        **_pressure(memory.pressure),
    }


def _memory_counter(counter: MemoryCounter) -> dict[str, int]:
    used = _given(usage=counter.usage, max=counter.max_usage)
    return {"limit": counter.limit, **used, "failcnt": counter.failures}


def _block_io(block_io: BlockIoStats) -> dict[str, Any]:
    return {
        **_given(
            ioServiceBytesRecursive=_entries(block_io.service_bytes),
            ioServicedRecursive=_entries(block_io.serviced),
            ioQueueRecursive=_entries(block_io.queued),
            ioServiceTimeRecursive=_entries(block_io.service_time),
            ioWaitTimeRecursive=_entries(block_io.wait_time),
            ioMergedRecursive=_entries(block_io.merged),
            ioTimeRecursive=_entries(block_io.time),
            sectorsRecursive=_entries(block_io.sectors),
        ),
        **_pressure(block_io.pressure),
    }


def _entries(entries: Iterable[BlockIoEntry]) -> list[dict[str, Any]]:
    return [_given(**asdict(entry)) for entry in entries]


def _hugetlb(pages: HugetlbStats) -> dict[str, int]:
    return {**_given(usage=pages.usage, max=pages.max_usage), "failcnt": pages.failures}


def _pressure(pressure: Pressure | None) -> dict[str, Any]:
    return {} if pressure is None else {"psi": asdict(pressure)}


def _rdt(rdt: RdtStats) -> dict[str, Any]:
    monitored = dict(rdt.monitored)
    total, local = (monitored.get(f"mbm_{name}_bytes", ()) for name in ("total", "local"))
    return _given(
        l3_cache_info=rdt.l3_info and _given(**asdict(rdt.l3_info)),
        l3_cache_schema_root=rdt.schema("L3", root=True),
        l3_cache_schema=rdt.schema("L3"),
        mem_bw_info=rdt.bandwidth_info and _given(**asdict(rdt.bandwidth_info)),
        mem_bw_schema_root=rdt.schema("MB", root=True),
        mem_bw_schema=rdt.schema("MB"),
        schemata=list(rdt.schemata),
        mbm_stats=[
            {"mbm_total_bytes": both, "mbm_local_bytes": near}
            for both, near in zip(total, local, strict=False)
        ],
        cmt_stats=[{"llc_occupancy": each} for each in monitored.get("llc_occupancy", ())],
    )


def _interface(interface: InterfaceStats) -> dict[str, Any]:
    """Names as Go writes fields that have been given none: RxBytes."""
    return {_camel_case(name): value for name, value in asdict(interface).items()}


def _camel_case(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
