"""Containers as units of systemd: what it shows, what stays as it was when it sets limits anew."""

import subprocess
import time
from pathlib import Path

import pytest

from runtime import Container
from runtime.cgroups import tree
from runtime.cgroups.detect import detect
from runtime.cgroups.systemd import SystemdV2
from runtime.errors import CgroupError
from runtime.state import Status
from tests.containers import Box
from tests.migratory import Migratory
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

MIB = 1 << 20
LIMITS = {"memory": {"limit": 64 * MIB}, "cpu": {"shares": 512}, "pids": {"limit": 100}}
KMSG = {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}


def show(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit, as systemctl tells them."""
    argv = ["systemctl", "show", *(f"--property={name}" for name in names), unit]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def file(container: Container, name: str) -> str:
    return tree.read(container.cgroup.paths[""] / name)


@pytest.fixture
def unit(box: Box) -> str:
    box.update(linux={"resources": LIMITS, "cgroupsPath": f"machine-mig.slice:mig-test:{box.id}"})
    box.program("sleep", "inf")
    return f"mig-test-{box.id}.scope"


@pytest.mark.needs_systemd
@pytest.mark.needs_cgroup_v2
class TestUnits:
    def test_a_container_is_a_scope_until_it_is_deleted(self, box: Box, unit: str) -> None:
        container = box.start(systemd_cgroup=True)
        shown = show(
            unit, "Slice", "ControlGroup", "MemoryMax", "CPUWeight", "TasksMax", "Delegate"
        )
        path = f"/machine.slice/machine-mig.slice/{unit}"
        assert shown == {
            "Slice": "machine-mig.slice",
            "ControlGroup": path,
            "MemoryMax": str(64 * MIB),
            "CPUWeight": "59",
            "TasksMax": "100",
            "Delegate": "yes",
        }
        assert Path(f"/proc/{container.state.init_pid}/cgroup").read_text() == f"0::{path}\n"
        assert (file(container, "memory.max"), file(container, "cpu.weight")) == (
            f"{64 * MIB}",
            "59",
        )
        again = Container.load(box.root, box.id)
        assert box.exec(again, "cat /proc/self/cgroup").out == "0::/\n"
        again.delete(force=True)
        assert show(unit, "LoadState") == {"LoadState": "not-found"}
        assert not again.cgroup.exists()

    def test_without_a_path_it_is_named_after_its_id(self, box: Box) -> None:
        box.program("sleep", "inf")
        container = box.start(systemd_cgroup=True)
        assert container.cgroup.paths[""].parts[-2:] == (
            "system.slice",
            f"migrator-{box.id}.scope",
        )

    def test_an_update_is_told_to_systemd_or_taken_back(self, box: Box, unit: str) -> None:
        container = box.start(systemd_cgroup=True)
        changes = {"pids": {"limit": 50}, "cpu": {"cpus": "0", "quota": 5000, "period": 10000}}
        container.set(changes)
        names = ("TasksMax", "AllowedCPUs", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec")
        told = show(unit, *names)
        assert told == dict(zip(names, ("50", "0", "500ms", "10ms"), strict=True))
        with pytest.raises(CgroupError, match=r"io\.max"):
            container.set({"pids": {"limit": 7}, "unified": {"io.max": "nonsense"}})
        assert show(unit, *names) == told
        assert file(container, "pids.max") == "50"

    def test_the_quota_is_what_systemd_makes_of_it(self, box: Box, unit: str) -> None:
        box.update(linux={"resources": LIMITS | {"cpu": {"quota": 50_001}}})
        container = box.start(systemd_cgroup=True)
        assert file(container, "cpu.max") == "51000 100000"
        container.set({"cpu": {"quota": 600_000, "period": 900_000}})
        assert file(container, "cpu.max") == "603000 900000"
        assert show(unit, "CPUQuotaPerSecUSec") == {"CPUQuotaPerSecUSec": "670ms"}

    def test_a_limit_below_the_usage_is_refused_before_systemd_sets_it(
        self, box: Box, unit: str
    ) -> None:
        container = box.start(systemd_cgroup=True)
        for limits in ({"limit": 1024}, {"limit": 1024, "swap": 2048}):
            with pytest.raises(CgroupError, match=r"rejecting memory.* limit"):
                container.set({"memory": {**limits, "checkBeforeUpdate": True}})
        assert show(unit, "MemoryMax") == {"MemoryMax": str(64 * MIB)}
        assert container.status() is Status.RUNNING

    def test_with_a_weight_a_container_is_idle_no_longer(self, box: Box, unit: str) -> None:
        container = box.start(systemd_cgroup=True)
        for idle, weight in (
            ({"cpu": {"idle": 1, "shares": 200}}, {"cpu": {"shares": 200}}),
            (
                {"unified": {"cpu.idle": "1", "cpu.weight": "8"}},
                {"unified": {"cpu.weight": "8"}},
            ),
        ):
            container.set(idle)
            assert file(container, "cpu.idle") == "1"
            container.set(weight)
            assert file(container, "cpu.idle") == "0"
        assert file(container, "cpu.weight") == "8"

    def test_a_reload_of_systemd_leaves_limits_and_devices_as_they_are(
        self, box: Box, unit: str
    ) -> None:
        box.update(linux={"devices": [KMSG]})
        container = box.start(systemd_cgroup=True)
        container.set({"pids": {"limit": 50}})
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        assert show(unit, "NeedDaemonReload") == {"NeedDaemonReload": "no"}
        assert (file(container, "pids.max"), file(container, "memory.max")) == ("50", f"{64 * MIB}")
        opened = box.exec(container, "head -c 1 /dev/null && head -c 1 /dev/kmsg")
        assert "not permitted" in opened.err

    def test_annotations_are_properties_of_the_unit(self, box: Box, unit: str) -> None:
        wished = {
            "RuntimeMaxSec": "6",
            "TimeoutStopSec": "1",
            "CollectMode": "'inactive-or-failed'",
        }
        box.update(annotations={f"org.systemd.property.{k}": v for k, v in wished.items()})
        container = box.start(systemd_cgroup=True)
        assert show(unit, "CollectMode") == {"CollectMode": "inactive-or-failed"}
        assert eventually(lambda: container.status() is Status.STOPPED, 30)
        container.delete()

    def test_a_failed_unit_of_its_name_is_no_obstacle(self, box: Box, unit: str) -> None:
        failing = ["systemd-run", "--scope", "--quiet", f"--unit={unit}", "-p", "RuntimeMaxSec=1"]
        subprocess.run([*failing, "sleep", "60"], check=False)
        assert show(unit, "ActiveState") == {"ActiveState": "failed"}
        container = box.start(systemd_cgroup=True)
        assert show(unit, "ActiveState") == {"ActiveState": "active"}
        assert container.cgroup.processes() == [container.state.init_pid]

    @pytest.mark.needs_criu
    def test_a_restored_container_is_a_unit_again(self, migratory: Migratory) -> None:
        migratory.start(systemd_cgroup=True).checkpoint()
        restored = migratory.restore()
        scope = f"migrator-{migratory.box.id}.scope"
        assert show(scope, "ActiveState") == {"ActiveState": "active"}
        assert restored.state.systemd_cgroup
        assert migratory.counts()


def test_without_a_bus_it_is_refused(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
    with pytest.raises(CgroupError, match=r"no system bus to systemd .*cgroupfs"):
        box.create(systemd_cgroup=True)
    assert not (box.root / box.id).exists()


@pytest.mark.needs_cgroup_v2_tree
def test_a_slice_that_is_there_is_anothers(name: str) -> None:
    root = detect().v2
    assert root is not None
    cgroup = SystemdV2({"": root / "migrator" / f"{name}.slice"}, {})
    cgroup.paths[""].mkdir(parents=True)
    try:
        with pytest.raises(CgroupError, match=rf"{name}\.slice: there is such a slice already"):
            cgroup.create()
        assert cgroup.exists()
    finally:
        tree.remove(cgroup.paths[""], time.monotonic() + 1)


@pytest.mark.needs_cgroup_v2_tree
def test_without_a_bus_its_cgroup_is_removed_all_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
    root = detect().v2
    assert root is not None
    cgroup = SystemdV2({"": root / "migrator" / f"{name}.scope"}, {})
    cgroup.paths[""].mkdir(parents=True)
    cgroup.end()
    assert not cgroup.exists()
    assert f"`systemctl stop {name}.scope`" in caplog.text
