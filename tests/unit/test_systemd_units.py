"""What systemd is asked for: names of units, and properties for linux.resources."""

from typing import Any

import pytest

from runtime.cgroups.devices import rules
from runtime.cgroups.unit_properties import of_annotations, properties, with_quota_of_systemd
from runtime.cgroups.units import Unit, unit_of
from runtime.errors import InvalidSpec, UnsupportedField

INFINITY = 2**64 - 1


@pytest.mark.parametrize(
    ("cgroups_path", "path"),
    [
        ("", "/system.slice/migrator-c1.scope"),
        ("machine.slice:runc:c1", "/machine.slice/runc-c1.scope"),
        ("a-b-c.slice:runc:c1", "/a.slice/a-b.slice/a-b-c.slice/runc-c1.scope"),
        (":runc:c1", "/system.slice/runc-c1.scope"),
        ("machine.slice::c1", "/machine.slice/c1.scope"),
        ("-.slice:runc:c1", "/runc-c1.scope"),
        ("machine.slice:x:machine-c1.slice", "/machine.slice/machine-c1.slice"),
    ],
)
def test_a_path_names_a_unit(cgroups_path: str, path: str) -> None:
    unit = unit_of(cgroups_path, "c1")
    assert unit.path == path
    assert Unit.of_path(f"/sys/fs/cgroup{path}") == unit


def test_a_user_s_containers_are_in_the_user_s_slice() -> None:
    assert unit_of("", "c1", rootless=True).parent == "user.slice"


@pytest.mark.parametrize(
    "cgroups_path",
    [
        *("/a/b", "a:b", "a.slice:b:c:d", "a.slice:b:", "a:b:c", "-a.slice:b:c", "a--b.slice:b:c"),
        *("a/../b.slice:b:c", "a.slice:b:../c", f"a.slice:b:{'c' * 250}", ".slice:b:c"),
    ],
)
def test_what_is_no_unit_is_refused(cgroups_path: str) -> None:
    with pytest.raises(UnsupportedField, match=r"linux\.cgroupsPath"):
        unit_of(cgroups_path, "c1")


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({}, {}),
        ({"memory": {"limit": 5, "swap": 8}}, {"MemoryMax": 5, "MemorySwapMax": 3}),
        ({"memory": {"limit": -1}}, {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY}),
        ({"memory": {"reservation": 5}}, {"MemoryLow": 5}),
        ({"cpu": {"shares": 1024}}, {"CPUWeight": 100}),
        ({"cpu": {"shares": 1024, "idle": 1}}, {"CPUWeight": 0}),
        (
            {"cpu": {"quota": 1234, "period": 10000}},
            {"CPUQuotaPerSecUSec": 130_000, "CPUQuotaPeriodUSec": 10000},
        ),
        ({"cpu": {"quota": 5000}}, {"CPUQuotaPerSecUSec": 50_000}),
        ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": INFINITY}),
        ({"cpu": {"cpus": "0-2,9"}}, {"AllowedCPUs": b"\x07\x02"}),
        ({"cpu": {"mems": "0"}}, {"AllowedMemoryNodes": b"\x01"}),
        ({"cpu": {"cpus": "0-3, 9,"}}, {"AllowedCPUs": b"\x0f\x02"}),
        ({"cpu": {"cpus": "0-7:2/4"}}, {"AllowedCPUs": b"\x33"}),
        ({"cpu": {"cpus": ","}}, {"AllowedCPUs": b""}),
        ({"pids": {"limit": 0}}, {"TasksMax": 1}),
        ({"pids": {"limit": -1}}, {"TasksMax": INFINITY}),
        ({"blockIO": {"weight": 1000}}, {"IOWeight": 10000}),
        (
            {"unified": {"memory.high": "5", "memory.max": "max", "cpuset.cpus": "1"}},
            {"MemoryHigh": 5, "MemoryMax": INFINITY, "AllowedCPUs": b"\x02"},
        ),
        (
            {"unified": {"cpu.max": "max 50000", "cpu.weight": "7"}},
            {"CPUQuotaPerSecUSec": INFINITY, "CPUQuotaPeriodUSec": 50000, "CPUWeight": 7},
        ),
        ({"memory": {"limit": 5}, "unified": {"memory.max": "7"}}, {"MemoryMax": 7}),
        (
            {"unified": {"memory.max": "512M", "memory.low": "1k\n", "memory.min": "0x10"}},
            {"MemoryMax": 512 << 20, "MemoryLow": 1024, "MemoryMin": 16},
        ),
        ({"unified": {"memory.high": f"{10**30}"}}, {"MemoryHigh": INFINITY}),
        ({"devices": [{"allow": True, "access": "rwm"}]}, {}),
    ],
)
def test_v2_limits(resources: dict[str, Any], told: dict[str, Any]) -> None:
    assert {n: value for n, (_, value) in properties(resources, unified=True)} == told


@pytest.mark.parametrize(
    "resources",
    [
        {"cpu": {"shares": 1024, "idle": 1}},
        {"unified": {"cpu.weight": "8", "cpu.idle": "1\n"}},
        {"unified": {"cpu.idle": "1", "cpu.weight": "8"}},
    ],
)
def test_what_is_idle_has_no_weight(
    resources: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert properties(resources, unified=True) == [("CPUWeight", ("t", 0))]
    assert "unable to apply both" in caplog.text


@pytest.mark.parametrize(
    ("cpu", "quota"),
    [
        ({"quota": 600_000, "period": 900_000}, 603_000),
        ({"quota": 5000, "period": 10_000}, 5000),
        ({"quota": 30_001}, 31_000),
        ({"quota": 30_000, "shares": 5}, 30_000),
        ({"quota": -1, "period": 900_000}, -1),
    ],
)
def test_the_file_has_the_quota_that_systemd_rounds_it_to(cpu: dict[str, int], quota: int) -> None:
    given = {"cpu": cpu, "pids": {"limit": 1}}
    kept = with_quota_of_systemd(given)
    assert kept == {**given, "cpu": {**cpu, "quota": quota}}
    assert properties(kept, unified=True) == properties(given, unified=True)


@pytest.mark.parametrize(
    ("resources", "fault"),
    [
        ({"cpu": {"cpus": "3-0"}}, r"cpu\.cpus: '3-0' is no range"),
        ({"cpu": {"mems": "0-4000000"}}, r"cpu\.mems: '0-4000000' is no range"),
        ({"cpu": {"cpus": "0-3:4/2"}}, r"cpu\.cpus: '0-3:4/2' is no range"),
        ({"unified": {"memory.max": "M"}}, r"unified\['memory\.max'\]: '' is no whole number"),
        ({"unified": {"pids.max": "5k"}}, r"unified\['pids\.max'\]: '5k' is no whole number"),
        ({"unified": {"cpu.max": "max x"}}, r"unified\['cpu\.max'\]: 'x' is no whole number"),
        ({"unified": {"cpuset.cpus": "all"}}, r"unified\['cpuset\.cpus'\]: 'all' is no number"),
    ],
)
def test_what_the_kernel_would_not_read_is_refused_by_name(
    resources: dict[str, Any], fault: str
) -> None:
    with pytest.raises(InvalidSpec, match=rf"linux\.resources\.{fault}"):
        properties(resources, unified=True)


def test_v1_limits() -> None:
    resources = {"memory": {"limit": 5, "swap": 8}, "cpu": {"shares": 7}, "blockIO": {"weight": 9}}
    told = {name: value for name, (_, value) in properties(resources, unified=False)}
    assert told == {"MemoryLimit": 5, "CPUShares": 7, "BlockIOWeight": 9}


def test_on_v1_systemd_is_told_of_devices() -> None:
    given = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"},
    ]
    told = dict(properties({"devices": given}, unified=False, with_devices=True))
    assert told["DevicePolicy"] == ("s", "strict")
    signature, allowed = told["DeviceAllow"]
    assert signature == "a(ss)"
    assert {("/dev/block/8:0", "r"), ("/dev/char/1:3", "rwm"), ("char-*", "m")} <= set(allowed)
    assert len(rules({"devices": given})) > 1


def test_on_v1_a_spec_that_names_no_device_denies_all_but_the_usual() -> None:
    told = dict(properties({}, unified=False, with_devices=True))
    assert told["DevicePolicy"] == ("s", "strict")
    assert ("/dev/char/1:3", "rwm") in told["DeviceAllow"][1]
    assert all(name not in told["DeviceAllow"][1] for name in (("char-*", "rwm"), ("char-*", "r")))
    assert properties({}, unified=True, with_devices=True) == []
    assert properties({"pids": {"limit": 1}}, unified=False) == [("TasksMax", ("t", 1))]


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("RuntimeMaxSec", "2", ("RuntimeMaxUSec", ("t", 2_000_000))),
        ("TimeoutStopUSec", "uint64 5", ("TimeoutStopUSec", ("t", 5))),
        ("CollectMode", "'inactive-or-failed'", ("CollectMode", ("s", "inactive-or-failed"))),
        ("SendSIGHUP", "true", ("SendSIGHUP", ("b", True))),
        ("Before", "['a.service']", ("Before", ("as", ["a.service"]))),
        ("OOMScoreAdjust", "-5", ("OOMScoreAdjust", ("i", -5))),
    ],
)
def test_annotations_are_properties(key: str, text: str, told: Any) -> None:
    assert of_annotations({f"org.systemd.property.{key}": text, "other": "x"}) == [told]


@pytest.mark.parametrize(("key", "text"), [("A b", "1"), ("Xy", "1"), ("Good", "{"), ("Good", "x")])
def test_annotations_that_cannot_be_read_are_refused(key: str, text: str) -> None:
    with pytest.raises(UnsupportedField, match=r"org\.systemd\.property"):
        of_annotations({f"org.systemd.property.{key}": text})
