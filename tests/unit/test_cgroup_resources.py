"""From linux.resources to control files: pure, for both versions, and the order of writing."""

from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups import tree
from runtime.cgroups.resources import (
    Setting,
    v1_settings,
    v2_settings,
    v2_weight_of_block_io,
    v2_weight_of_shares,
)
from runtime.errors import CgroupError, UnsupportedField

Resources = dict[str, Any]
THROTTLE = [{"major": 8, "minor": 16, "rate": 300}]


def written(settings: list[Setting]) -> dict[str, str]:
    """File -> value, of the file that is preferred."""
    return {setting.writes[0][0]: setting.writes[0][1] for setting in settings}


@pytest.mark.parametrize(
    ("resources", "files"),
    [
        ({}, {}),
        ({"memory": {"limit": 9}}, {"memory.limit_in_bytes": "9"}),
        (
            {"memory": {"limit": 9, "swap": 12, "reservation": 5}},
            {
                "memory.limit_in_bytes": "9",
                "memory.memsw.limit_in_bytes": "12",
                "memory.soft_limit_in_bytes": "5",
            },
        ),
        (
            {"memory": {"limit": -1}},
            {"memory.limit_in_bytes": "-1", "memory.memsw.limit_in_bytes": "-1"},
        ),
        ({"memory": {"limit": 0, "swap": 0, "reservation": 0, "kernelTCP": 0}}, {}),
        (
            {"memory": {"kernelTCP": -1, "swappiness": 0, "disableOOMKiller": True}},
            {
                "memory.kmem.tcp.limit_in_bytes": "-1",
                "memory.swappiness": "0",
                "memory.oom_control": "1",
            },
        ),
        (
            {"cpu": {"shares": 5, "quota": -1, "period": 7, "burst": 0, "idle": 1}},
            {
                "cpu.cfs_quota_us": "-1",
                "cpu.cfs_period_us": "7",
                "cpu.cfs_burst_us": "0",
                "cpu.idle": "1",
            },
        ),
        ({"cpu": {"shares": 5, "idle": 0}}, {"cpu.shares": "5", "cpu.idle": "0"}),
        (
            {"cpu": {"realtimePeriod": 5, "realtimeRuntime": 4}},
            {"cpu.rt_period_us": "5", "cpu.rt_runtime_us": "4"},
        ),
        ({"cpu": {"cpus": "0-1", "mems": "0"}}, {"cpuset.cpus": "0-1", "cpuset.mems": "0"}),
        ({"pids": {"limit": 3}}, {"pids.max": "3"}),
        ({"pids": {"limit": 0}}, {"pids.max": "1"}),
        ({"pids": {"limit": -1}}, {"pids.max": "max"}),
        (
            {"blockIO": {"weight": 500, "leafWeight": 10}},
            {"blkio.bfq.weight": "500", "blkio.leaf_weight": "10"},
        ),
        (
            {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 5, "leafWeight": 6}]}},
            {"blkio.bfq.weight_device": "8:0 5", "blkio.leaf_weight_device": "8:0 6"},
        ),
        (
            {"blockIO": {"throttleReadBpsDevice": THROTTLE, "throttleWriteIOPSDevice": THROTTLE}},
            {
                "blkio.throttle.read_bps_device": "8:16 300",
                "blkio.throttle.write_iops_device": "8:16 300",
            },
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]},
            {"hugetlb.2MB.limit_in_bytes": "4", "hugetlb.2MB.rsvd.limit_in_bytes": "4"},
        ),
        (
            {"network": {"classID": 5, "priorities": [{"name": "eth0", "priority": 2}]}},
            {"net_cls.classid": "5", "net_prio.ifpriomap": "eth0 2"},
        ),
        (
            {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 0}}},
            {"rdma.max": "mlx5_1 hca_handle=3 hca_object=0"},
        ),
    ],
)
def test_v1(resources: Resources, files: dict[str, str]) -> None:
    assert written(v1_settings(resources)) == files


@pytest.mark.parametrize(
    ("resources", "files"),
    [
        ({}, {}),
        ({"memory": {"limit": 9}}, {"memory.max": "9"}),
        (
            {"memory": {"limit": 9, "swap": 12, "reservation": 5}},
            {"memory.max": "9", "memory.swap.max": "3", "memory.low": "5"},
        ),
        ({"memory": {"limit": 9, "swap": 9}}, {"memory.max": "9", "memory.swap.max": "0"}),
        ({"memory": {"limit": -1}}, {"memory.max": "max", "memory.swap.max": "max"}),
        ({"memory": {"limit": 9, "swap": -1}}, {"memory.max": "9", "memory.swap.max": "max"}),
        ({"memory": {"disableOOMKiller": False, "kernelTCP": -1}}, {}),
        ({"cpu": {"shares": 1024}}, {"cpu.weight": "100"}),
        ({"cpu": {"shares": 1024, "idle": 1}}, {"cpu.idle": "1"}),
        ({"cpu": {"quota": 5}}, {"cpu.max": "5"}),
        ({"cpu": {"quota": 5, "period": 9}}, {"cpu.max": "5 9"}),
        ({"cpu": {"period": 9}}, {"cpu.max": "max 9"}),
        (
            {"cpu": {"quota": -1, "period": 9, "burst": 3}},
            {"cpu.max": "max 9", "cpu.max.burst": "3"},
        ),
        ({"cpu": {"cpus": "0-1"}}, {"cpuset.cpus": "0-1"}),
        ({"pids": {"limit": -1}}, {"pids.max": "max"}),
        ({"blockIO": {"weight": 500}}, {"io.bfq.weight": "500"}),
        (
            {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 5}]}},
            {"io.bfq.weight": "8:0 5"},
        ),
        ({"blockIO": {"throttleReadBpsDevice": THROTTLE}}, {"io.max": "8:16 rbps=300"}),
        (
            {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]}},
            {"io.max": "8:0 wiops=max"},
        ),
        (
            {"hugepageLimits": [{"pageSize": "1GB", "limit": 4}]},
            {"hugetlb.1GB.max": "4", "hugetlb.1GB.rsvd.max": "4"},
        ),
        ({"rdma": {"m": {"hcaObjects": 1}}}, {"rdma.max": "m hca_object=1"}),
        ({"unified": {"memory.high": "max"}}, {"memory.high": "max"}),
        ({"unified": {"cpu.idle": "1", "cpu.weight": "8"}}, {"cpu.idle": "1"}),
        (
            {"unified": {"cpu.idle": "0", "cpu.weight": "8"}},
            {"cpu.idle": "0", "cpu.weight": "8"},
        ),
    ],
)
def test_v2(resources: Resources, files: dict[str, str]) -> None:
    assert written(v2_settings(resources)) == files


def test_unified_settings_are_asked_of_their_controller_and_written_last() -> None:
    resources = {"unified": {"memory.max": "7"}, "memory": {"limit": 5}, "pids": {"limit": 1}}
    last = v2_settings(resources)[-1]
    assert (last.controller, last.writes) == ("memory", (("memory.max", "7"),))


def test_lines_of_a_unified_setting_are_written_one_by_one() -> None:
    limits = v2_settings({"unified": {"io.max": "7:0 riops=333\n7:1 riops=444\n"}})
    assert [each.writes for each in limits] == [
        (("io.max", "7:0 riops=333"),),
        (("io.max", "7:1 riops=444"),),
    ]


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"memory": {"swappiness": 5}}, "memory.swappiness"),
        ({"memory": {"disableOOMKiller": True}}, "memory.disableOOMKiller"),
        ({"memory": {"kernelTCP": 5}}, "memory.kernelTCP"),
        ({"cpu": {"realtimeRuntime": 5}}, "cpu.realtimeRuntime"),
        ({"blockIO": {"leafWeight": 5}}, "blockIO.leafWeight"),
        (
            {"blockIO": {"weightDevice": [{"major": 1, "minor": 1, "leafWeight": 5}]}},
            "blockIO.leafWeight",
        ),
        ({"network": {"classID": 5}}, "network.classID"),
        ({"network": {"priorities": [{"name": "a", "priority": 1}]}}, "network.priorities"),
    ],
)
def test_v2_refuses_what_only_v1_has(resources: Resources, field: str) -> None:
    with pytest.raises(UnsupportedField, match=rf"linux\.resources\.{field}: cgroup v2 has no"):
        v2_settings(resources)


def test_v1_refuses_unified() -> None:
    with pytest.raises(UnsupportedField, match=r"linux\.resources\.unified: invalid configuration"):
        v1_settings({"unified": {"memory.high": "1"}})


@pytest.mark.parametrize(
    ("shares", "weight"), [(0, 1), (2, 1), (512, 59), (1024, 100), (2048, 174), (2**20, 10000)]
)
def test_shares_become_a_weight(shares: int, weight: int) -> None:
    assert v2_weight_of_shares(shares) == weight


def test_a_larger_share_never_gets_a_smaller_weight() -> None:
    weights = [v2_weight_of_shares(shares) for shares in range(2, 262145, 97)]
    assert weights == sorted(weights)


@pytest.mark.parametrize(("old", "new"), [(10, 1), (1000, 10000), (505, 5000)])
def test_a_block_io_weight_is_scaled(old: int, new: int) -> None:
    assert v2_weight_of_block_io(old) == new


class TestWriting:
    def test_the_first_file_that_is_there_is_written(self, tmp_path: Path) -> None:
        (tmp_path / "blkio.weight").touch()
        tree.write_all(v1_settings({"blockIO": {"weight": 5}}), {"blkio": tmp_path}.get)
        assert (tmp_path / "blkio.weight").read_text() == "5"

    def test_a_missing_controller_is_told_with_the_field(self) -> None:
        with pytest.raises(CgroupError, match=r"controller pids: .* linux\.resources\.pids\.limit"):
            tree.write_all(v1_settings({"pids": {"limit": 5}}), lambda _: None)

    def test_a_missing_file_is_told_with_the_field(self, tmp_path: Path) -> None:
        told = r"has no cpu\.idle: this kernel cannot carry out linux\.resources\.cpu\.idle"
        with pytest.raises(CgroupError, match=told):
            tree.write_all(v1_settings({"cpu": {"idle": 1}}), {"cpu": tmp_path}.get)

    def test_a_missing_file_may_be_no_fault(self, tmp_path: Path) -> None:
        (tmp_path / "memory.limit_in_bytes").touch()
        tree.write_all(v1_settings({"memory": {"limit": -1}}), {"memory": tmp_path}.get)
        assert (tmp_path / "memory.limit_in_bytes").read_text() == "-1"

    def test_a_swap_limit_that_was_asked_for_is_not_optional(self, tmp_path: Path) -> None:
        (tmp_path / "memory.limit_in_bytes").touch()
        settings = v1_settings({"memory": {"limit": 5, "swap": 6}})
        with pytest.raises(CgroupError, match=r"has no memory\.memsw\.limit_in_bytes"):
            tree.write_all(settings, {"memory": tmp_path}.get)
