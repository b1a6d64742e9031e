"""What an update makes of the limits that hold, and how what was written is taken back."""

import json
from pathlib import Path
from typing import Any

import pytest

from migrator import cli
from migrator.commands.update import nested, size_bytes
from runtime.cgroups import manager
from runtime.cgroups.former import former_value
from runtime.checkpoint.descriptors import Descriptor, Kind
from runtime.checkpoint.records import Record
from runtime.errors import CgroupError, InvalidSpec, UnsupportedField
from runtime.spec.fields import RESOURCES
from runtime.spec.reading import parse, with_resources
from runtime.spec.schema import Record as Kinds
from runtime.state import State
from runtime.undo import Undo
from runtime.update import _LISTS, _ZERO_COUNTS, checked, merged, updated
from tests.bundles import spec

GIB = 1 << 30
DENY = [{"allow": False, "access": "rwm"}]


@pytest.mark.parametrize(
    ("former", "changes", "expected"),
    [
        ({}, {"memory": {"limit": 5}}, {"memory": {"limit": 5}}),
        (
            {"memory": {"limit": 5, "swappiness": 3}, "pids": {"limit": 9}},
            {"memory": {"limit": 6}},
            {"memory": {"limit": 6, "swappiness": 3}, "pids": {"limit": 9}},
        ),
        (
            {"memory": {"limit": 5, "swap": 9}},
            {"memory": {"limit": -1}},
            {"memory": {"limit": -1}},
        ),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}},
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 2}]}},
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 2}]}},
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]},
            {"hugepageLimits": [{"pageSize": "1GB", "limit": 2}]},
            {
                "hugepageLimits": [
                    {"pageSize": "2MB", "limit": 1},
                    {"pageSize": "1GB", "limit": 2},
                ]
            },
        ),
        (
            {"rdma": {"a": {"hcaHandles": 1}}, "unified": {"memory.high": "1"}},
            {"rdma": {"a": {"hcaObjects": 2}}, "unified": {"cpu.weight": "2"}},
            {
                "rdma": {"a": {"hcaHandles": 1, "hcaObjects": 2}},
                "unified": {"memory.high": "1", "cpu.weight": "2"},
            },
        ),
        ({"cpu": {"idle": 1}}, {"cpu": {"period": 5}}, {"cpu": {"idle": 1, "period": 5}}),
    ],
)
def test_what_is_not_given_stays(
    former: dict[str, Any], changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = json.dumps(former)
    assert merged(former, changes) == expected
    assert json.dumps(former) == before


@pytest.mark.parametrize(
    ("former", "changes", "expected"),
    [
        ({"cpu": {"idle": 1}}, {"cpu": {"shares": 5}}, {"cpu": {"idle": 0, "shares": 5}}),
        ({"cpu": {}}, {"cpu": {"shares": 5}}, {"cpu": {"shares": 5}}),
        (
            {"cpu": {"shares": 5}},
            {"cpu": {"shares": 6, "idle": 1}},
            {"cpu": {"shares": 6, "idle": 1}},
        ),
        (
            {"unified": {"cpu.idle": "1"}},
            {"unified": {"cpu.weight": "5"}},
            {"unified": {"cpu.idle": "0", "cpu.weight": "5"}},
        ),
    ],
)
def test_what_is_given_a_weight_is_idle_no_longer(
    former: dict[str, Any], changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert merged(former, changes) == expected


def test_zeroes_of_callers_ask_for_nothing() -> None:
    changes = {
        "memory": {"limit": 0, "reservation": 0, "swap": 0, "swappiness": 0},
        "cpu": {"shares": 0, "quota": 0, "cpus": "", "mems": "", "idle": 0, "burst": 0},
        "blockIO": {"weight": 0},
        "pids": {"limit": 0},
    }
    assert checked(changes, {}) == {
        "memory": {"swappiness": 0},
        "cpu": {"idle": 0, "burst": 0},
        "blockIO": {},
        "pids": {"limit": 0},
    }


def test_kernel_memory_is_ignored_as_by_runc(caplog: pytest.LogCaptureFixture) -> None:
    assert checked({"memory": {"kernel": 5, "kernelTCP": 6, "limit": 7}}, {}) == {
        "memory": {"limit": 7}
    }
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_device_rules_may_be_given_as_they_are_and_not_otherwise() -> None:
    assert checked({"devices": DENY}, {"devices": DENY}) == {}
    with pytest.raises(UnsupportedField, match="devices: which devices it may use is fixed"):
        checked({"devices": [{"allow": True, "access": "rwm"}]}, {"devices": DENY})


def test_the_tables_name_fields_that_there_are() -> None:
    def names(kind: Any) -> set[str]:
        below = getattr(kind, "item", kind)
        fields = below.fields if isinstance(below, Kinds) else {}
        return set(fields).union(*(names(each) for each in fields.values()))

    assert set(_LISTS) <= names(RESOURCES)
    for section, name in _ZERO_COUNTS:
        kind = RESOURCES.fields[section]
        assert isinstance(kind, Kinds)
        assert name in kind.fields


@pytest.mark.parametrize(
    ("name", "content", "new", "former"),
    [
        ("memory.limit_in_bytes", "9223372036854771712", "4096", "9223372036854771712"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3", "1", "0"),
        ("cpu.max", "max 100000", "5000 100000", "max 100000"),
        ("cpuset.cpus", "", "0-1", "\n"),
        ("io.weight", "default 100\n8:0 200", "300", "default 100"),
        ("io.weight", "default 100\n8:0 200", "8:0 300", "8:0 200"),
        ("io.weight", "default 100", "8:0 300", "8:0 default"),
        ("io.max", "8:0 rbps=1 wbps=max riops=max wiops=max", "8:0 rbps=2", None),
        ("io.max", "", "8:0 rbps=2", "8:0 rbps=max wbps=max riops=max wiops=max"),
        ("blkio.throttle.read_bps_device", "8:0 5\n8:16 6", "8:16 7", "8:16 6"),
        ("blkio.throttle.read_bps_device", "", "8:16 7", "8:16 0"),
        ("rdma.max", "", "mlx hca_handle=1", "mlx hca_handle=max hca_object=max"),
        ("net_prio.ifpriomap", "lo 0\neth0 3", "eth0 5", "eth0 3"),
    ],
)
def test_what_takes_a_write_back(name: str, content: str, new: str, former: str | None) -> None:
    assert former_value(name, content, new) == (content if former is None else former)


V1 = {
    "memory.limit_in_bytes": "100",
    "memory.memsw.limit_in_bytes": "200",
    "pids.max": "max",
    "cpu.shares": "1024",
}


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    for name, value in V1.items():
        (tmp_path / name).write_text(value)
    return tmp_path


def state(**resources: Any) -> State:
    return State(
        id="c",
        oci_version="1.2.0",
        bundle=Path("/b"),
        rootfs=Path("/b/r"),
        spec={"linux": {"resources": resources}},
        created="",
    )


def content(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_when_one_write_fails_all_are_taken_back(cgroup: Path) -> None:
    driver = manager("", paths=dict.fromkeys(("memory", "pids", "cpu"), str(cgroup)))
    changes = {"memory": {"limit": 150, "swap": 250}, "pids": {"limit": 7}, "cpu": {"burst": 1}}
    with pytest.raises(CgroupError, match=r"has no cpu\.cfs_burst_us"), Undo() as undo:
        updated(state(), driver, {**changes, "rdma": {}}, undo)
    # cpu comes after memory, pids after cpu
    assert content(cgroup) == V1


def test_only_the_sections_that_are_given_are_written(cgroup: Path) -> None:
    driver = manager("", paths=dict.fromkeys(("memory", "pids", "cpu"), str(cgroup)))
    with Undo() as undo:
        after = updated(state(cpu={"shares": 5}), driver, {"memory": {"limit": 150}}, undo)
    assert content(cgroup) == V1 | {"memory.limit_in_bytes": "150"}
    assert after.resources == {"cpu": {"shares": 5}, "memory": {"limit": 150}}
    assert after.spec == {"linux": {"resources": {"cpu": {"shares": 5}}}}


def test_swap_is_checked_against_the_limit_that_holds(cgroup: Path) -> None:
    driver = manager("", paths={"memory": str(cgroup)})
    with Undo() as undo:
        updated(state(memory={"limit": 100}), driver, {"memory": {"swap": 150}}, undo)
    assert (cgroup / "memory.memsw.limit_in_bytes").read_text() == "150"
    with pytest.raises(InvalidSpec, match="is below the memory limit 100"), Undo() as undo:
        updated(state(memory={"limit": 100}), driver, {"memory": {"swap": 50}}, undo)


def test_a_state_of_before_has_no_updated_resources(tmp_path: Path) -> None:
    state().save(tmp_path)
    file = tmp_path / "state.json"
    data = json.loads(file.read_text())
    del data["updated_resources"]
    file.write_text(json.dumps(data | {"id": tmp_path.name}))
    assert State.load(tmp_path).updated_resources == {}


def test_a_record_carries_limits_and_never_devices() -> None:
    wanted = {"memory": {"limit": 5}, "devices": [{"allow": True, "access": "rwm"}]}
    for bad in ({"memory": {"limit": "5"}}, {"cpu": {"cpus": "x"}}):
        with pytest.raises(ValueError, match="resources"):
            Record.from_json(record_with(bad))
    assert Record.from_json(record_with(wanted)).resources == {"memory": {"limit": 5}}


def record_with(resources: dict[str, Any]) -> dict[str, Any]:
    record = Record(
        container_id="c",
        spec_sha256="",
        descriptors=(Descriptor(Kind.INSIDE, "/dev/null"),) * 3,
        resources=resources,
    )
    data: dict[str, Any] = json.loads(record.text())
    return data


def test_new_limits_keep_the_devices_of_the_spec() -> None:
    own = parse(spec("true"))
    changed = with_resources(own, {"memory": {"limit": GIB}, "devices": []})
    assert changed.linux.resources["memory"] == {"limit": GIB}
    assert changed.linux.resources["devices"] == own.linux.resources["devices"]
    assert with_resources(own, {}) is own


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("512m", 512 << 20),
        ("1g", GIB),
        ("1.5GiB", 3 * GIB // 2),
        ("-1", -1),
        ("2 kb", 2048),
    ],
)
def test_a_size_may_have_a_unit(text: str, size: int) -> None:
    assert size_bytes(text) == size


def test_options_are_sorted_into_sections() -> None:
    limits = {"memory__limit": 5, "memory__swap": None, "pids__limit": 0}
    assert nested(limits) == {"memory": {"limit": 5}, "pids": {"limit": 0}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "lots"], "'lots' is no size: write it as 4096, 512m or 1g, or -1 for no"),
        (["--pids-limit", "x"], "'x' is not a valid integer"),
    ],
)
def test_a_wrong_option_is_told(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["update", *arguments, "none"]) == 1
    assert message in capsys.readouterr().err
