"""The statistics as runc prints them, and the options of `events`."""

from typing import Any

import pytest

from migrator import cli
from migrator.commands._stats_json import stats_json
from migrator.commands.events import seconds
from runtime.cgroups.stats import (
    BlockIoEntry,
    BlockIoStats,
    CgroupStats,
    CpuStats,
    HugetlbStats,
    MemoryCounter,
    MemoryStats,
    PidsStats,
    Pressure,
)
from runtime.network.counters import InterfaceStats
from runtime.resctrl import BandwidthInfo, L3Info, RdtStats
from runtime.stats import Stats


def printed(**parts: Any) -> dict[str, Any]:
    return stats_json(Stats(CgroupStats(**parts)))


def test_what_is_0_is_left_out_as_by_runc() -> None:
    assert printed() == {
        "cpu": {"usage": {"kernel": 0, "user": 0}, "throttling": {}},
        "cpuset": {
            "cpu_exclusive": 0,
            "mem_hardwall": 0,
            "mem_exclusive": 0,
            "memory_migrate": 0,
            "memory_spread_page": 0,
            "memory_spread_slab": 0,
            "memory_pressure": 0,
            "sched_load_balance": 0,
            "sched_relax_domain_level": 0,
        },
        "memory": {
            name: {"limit": 0, "failcnt": 0} for name in ("usage", "swap", "kernel", "kernelTCP")
        },
        "pids": {},
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def test_the_names_are_those_of_runc() -> None:
    cpu = CpuStats(total_ns=9, percpu_ns=(4, 5), periods=3, throttled_periods=2, throttled_ns=1)
    memory = MemoryStats(cache=1, usage=MemoryCounter(usage=2, max_usage=3, limit=4), raw={"a": 5})
    block_io = BlockIoStats(queued=(BlockIoEntry(8, 0, "Read", 7),), pressure=Pressure())
    data = printed(
        cpu=cpu,
        memory=memory,
        pids=PidsStats(current=2, limit=9),
        block_io=block_io,
        hugetlb={"2MB": HugetlbStats(usage=6)},
    )
    assert data["cpu"]["usage"] == {"total": 9, "percpu": [4, 5], "kernel": 0, "user": 0}
    assert data["cpu"]["throttling"] == {"periods": 3, "throttledPeriods": 2, "throttledTime": 1}
    assert data["memory"]["usage"] == {"limit": 4, "usage": 2, "max": 3, "failcnt": 0}
    assert (data["memory"]["cache"], data["memory"]["raw"]) == (1, {"a": 5})
    assert data["pids"] == {"current": 2, "limit": 9}
    assert data["blkio"]["ioQueueRecursive"] == [{"major": 8, "op": "Read", "value": 7}]
    assert sorted(data["blkio"]["psi"]) == ["full", "some"]
    assert data["hugetlb"] == {"2MB": {"usage": 6, "failcnt": 0}}


def test_interfaces_and_intel_rdt() -> None:
    rdt = RdtStats(
        l3_info=L3Info("fffff", 1, 16),
        bandwidth_info=BandwidthInfo(10, 1, 10, 8),
        root_schemata=("L3:0=fffff", "MB:0=100"),
        schemata=("L3:0=f", "MB:0=50"),
        monitored=(("mbm_total_bytes", (9,)), ("mbm_local_bytes", (8,)), ("llc_occupancy", (7,))),
    )
    interface = InterfaceStats("eth0", 1, 2, 3, 4, 5, 6, 7, 8)
    data = stats_json(Stats(CgroupStats(), (interface,), rdt))
    assert data["network_interfaces"] == [
        {
            "Name": "eth0",
            "RxBytes": 1,
            "RxPackets": 2,
            "RxErrors": 3,
            "RxDropped": 4,
            "TxBytes": 5,
            "TxPackets": 6,
            "TxErrors": 7,
            "TxDropped": 8,
        }
    ]
    assert data["intel_rdt"] == {
        "l3_cache_info": {"cbm_mask": "fffff", "min_cbm_bits": 1, "num_closids": 16},
        "l3_cache_schema_root": "L3:0=fffff",
        "l3_cache_schema": "L3:0=f",
        "mem_bw_info": {
            "bandwidth_gran": 10,
            "delay_linear": 1,
            "min_bandwidth": 10,
            "num_closids": 8,
        },
        "mem_bw_schema_root": "MB:0=100",
        "mem_bw_schema": "MB:0=50",
        "schemata": ["L3:0=f", "MB:0=50"],
        "mbm_stats": [{"mbm_total_bytes": 9, "mbm_local_bytes": 8}],
        "cmt_stats": [{"llc_occupancy": 7}],
    }


@pytest.mark.parametrize(
    ("text", "expected"), [("5s", 5), ("500ms", 0.5), ("1m30s", 90), ("1.5h", 5400), ("2µs", 2e-6)]
)
def test_an_interval_is_written_as_go_programs_take_it(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["0s", "5", "-1s", "5 s", "s", ""])
def test_no_other_interval_is_taken(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["events", "--interval", text, "none"]) == 1
    assert "is no time above 0: write it as 5s, 500ms or 1m30s" in capsys.readouterr().err
