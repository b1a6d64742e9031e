"""Limits of a real container changed while it runs: what kernel, state and restore say."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runtime import Container
from runtime.cgroups import tree
from runtime.errors import CgroupError, InvalidSpec, NotRunning, SetupFailed, UnsupportedField
from runtime.state import Status
from tests.containers import Box
from tests.root.test_command_line import PROGRAM
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_cgroup_v1]

MIB = 1 << 20
LIMITS = {"memory": {"limit": 64 * MIB}, "cpu": {"shares": 512}, "pids": {"limit": 100}}
FILES = {
    "memory": (
        *("memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes"),
    ),
    "cpu": ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.idle"),
    "cpuset": ("cpuset.cpus", "cpuset.mems"),
    "pids": ("pids.max",),
    "devices": ("devices.list",),
}


@pytest.fixture
def container(box: Box) -> Container:
    """One that runs, with a few limits, and eats memory when told to."""
    box.update(linux={"resources": LIMITS})
    box.program(
        *("sh", "-c"),
        "while ! [ -e /go ]; do sleep 0.05; done;"
        "dd if=/dev/zero of=/dev/null bs=40M count=1 && echo fits > /done || echo killed > /done;"
        "sleep inf",
    )
    return box.start()


def read(container: Container, name: str) -> str:
    return tree.read(container.cgroup.paths[name.partition(".")[0]] / name)


def everything(container: Container) -> dict[str, str]:
    """All that an update may change, as the kernel and the state have it."""
    kernel = {name: read(container, name) for names in FILES.values() for name in names}
    return kernel | {"state": (container.dir / "state.json").read_text()}


@pytest.mark.parametrize(("limit_mib", "outcome"), [(64, "fits"), (24, "killed")])
def test_a_new_memory_limit_holds_for_what_runs(
    box: Box, container: Container, limit_mib: int, outcome: str
) -> None:
    with container.notify_oom() as oom:
        container.set({"memory": {"limit": limit_mib * MIB, "swap": limit_mib * MIB}})
        (box.bundle.rootfs / "go").touch()
        done = box.bundle.rootfs / "done"
        assert eventually(lambda: done.exists() and done.read_text(), 10)
        assert done.read_text() == f"{outcome}\n"
        assert bool(oom.wait(0)) == (outcome == "killed")


def test_what_is_not_given_stays_and_the_state_knows_all(container: Container) -> None:
    container.set({"cpu": {"quota": 20_000, "period": 50_000}})
    container.set({"memory": {"limit": 48 * MIB}, "pids": {"limit": -1}})
    assert read(container, "cpu.shares") == "512"
    assert read(container, "cpu.cfs_quota_us") == "20000"
    assert read(container, "cpu.cfs_period_us") == "50000"
    assert read(container, "memory.limit_in_bytes") == str(48 * MIB)
    assert read(container, "pids.max") == "max"
    known = Container.load(container.root, container.id)
    assert known.spec.linux.resources["memory"] == {"limit": 48 * MIB}
    assert known.spec.linux.resources["cpu"] == {"shares": 512, "quota": 20_000, "period": 50_000}
    assert known.status() is Status.RUNNING


def test_a_paused_container_gets_its_limits_and_stays_paused(container: Container) -> None:
    container.pause()
    container.set({"memory": {"limit": 32 * MIB}, "cpu": {"cpus": "0", "idle": 1}})
    assert container.status() is Status.PAUSED
    assert read(container, "memory.limit_in_bytes") == str(32 * MIB)
    assert read(container, "cpuset.cpus") == "0"
    assert read(container, "cpu.idle") == "1"
    container.set({"cpu": {"idle": 0}})
    assert read(container, "cpu.shares") == "512"
    container.resume()
    assert container.status() is Status.RUNNING


def test_a_created_container_can_be_updated_and_a_stopped_one_not(box: Box) -> None:
    container = box.create()
    container.set({"pids": {"limit": 7}})
    assert read(container, "pids.max") == "7"
    container.start()
    container.signal(9)
    container.wait()
    with pytest.raises(NotRunning):
        container.set({"pids": {"limit": 8}})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        # the kernel has no such CPU, and refuses after the memory limit was set
        ({"memory": {"limit": 32 * MIB}, "cpu": {"cpus": "0-999"}}, CgroupError),
        ({"memory": {"limit": 32 * MIB, "swap": 16 * MIB}}, InvalidSpec),
        ({"cpu": {"shares": 99}, "rdma": {"mlx5_1": {"hcaHandles": 1}}}, CgroupError),
        ({"cpu": {"shares": 99}, "pids": {"limit": "many"}}, InvalidSpec),
        ({"unified": {"memory.high": "1"}}, UnsupportedField),
        ({"cpu": {"shares": 99}, "devices": [{"allow": True, "access": "rwm"}]}, UnsupportedField),
        ({"memory": {"limit": 4096}}, CgroupError),
    ],
)
def test_a_refusal_leaves_everything_as_it_was(
    container: Container, changes: dict[str, Any], error: type[Exception]
) -> None:
    before = everything(container)
    with pytest.raises(error):
        container.set(changes)
    assert everything(container) == before
    assert container.status() is Status.RUNNING


def test_a_state_that_cannot_be_written_takes_the_limits_back(container: Container) -> None:
    before = everything(container)
    (container.dir / f".state.json.{os.getpid()}").mkdir()  # where it is written before it is moved
    with pytest.raises(SetupFailed):
        container.set({"pids": {"limit": 7}})
    assert everything(container) == before


def update(box: Box, *options: str, text: str = "") -> subprocess.CompletedProcess[str]:
    argv = [str(PROGRAM), "--root", str(box.root), "update", *options, box.id]
    return subprocess.run(argv, input=text, capture_output=True, text=True, check=False)


def test_the_options_are_those_of_runc(box: Box, container: Container) -> None:
    done = update(
        box,
        *("--memory", "40m", "--memory-swap", "50m", "--memory-reservation", "20m"),
        *("--cpu-period", "40000", "--cpu-quota", "30000", "--cpu-share", "77"),
        *("--cpuset-cpus", "0", "--cpuset-mems", "0", "--pids-limit", "33"),
        *("--kernel-memory", "9m"),
    )
    assert done.returncode == 0, done.stderr
    assert "memory.kernel is ignored" in done.stderr
    found = everything(container)
    for name in ("state", "devices.list"):
        found.pop(name)
    assert found == {
        "memory.limit_in_bytes": str(40 * MIB),
        "memory.memsw.limit_in_bytes": str(50 * MIB),
        "memory.soft_limit_in_bytes": str(20 * MIB),
        "cpu.shares": "77",
        "cpu.cfs_quota_us": "30000",
        "cpu.cfs_period_us": "40000",
        "cpu.idle": "0",
        "cpuset.cpus": "0",
        "cpuset.mems": "0",
        "pids.max": "33",
    }


def test_resources_come_from_a_file_or_from_standard_input_as_callers_give_them(
    box: Box, container: Container, room: Path
) -> None:
    # as Docker writes it: zeroes for what it does not want
    docker = {
        "memory": {"limit": 40 * MIB, "reservation": 0, "swap": 0, "kernel": 0},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""},
        "blockIO": {"weight": 0},
    }
    done = update(box, "--resources", "-", "--pids-limit", "3", text=json.dumps(docker))
    assert done.returncode == 0, done.stderr
    assert read(container, "memory.limit_in_bytes") == str(40 * MIB)
    assert read(container, "pids.max") == "100"
    (room / "resources").write_text('{"cpu": {"shares": 88}}')
    assert update(box, "-r", str(room / "resources")).returncode == 0
    assert read(container, "cpu.shares") == "88"
    wrong = update(box, "-r", "-", text='{"pids": {"limit": "x"}}')
    assert wrong.returncode == 1
    assert "pids.limit: expected a whole number" in wrong.stderr


@pytest.mark.needs_criu
def test_a_restore_has_the_limits_of_the_dump(box: Box, container: Container, room: Path) -> None:
    container.set({"memory": {"limit": 48 * MIB}, "cpu": {"shares": 99}})
    before = everything(container)
    argv = [str(PROGRAM), "--root", str(box.root)]
    images = ["--image-path", str(room / "images")]
    subprocess.run([*argv, "checkpoint", *images, box.id], check=True)
    container.delete(force=True)
    bundle = ["--bundle", str(box.bundle.path), "--detach"]
    with open(room / "said", "w") as said:
        argv = [*argv, "restore", *images, *bundle, box.id]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    restored = Container.load(box.root, box.id)
    after = everything(restored)
    assert after | {"state": ""} == before | {"state": ""}
    assert restored.spec.linux.resources["cpu"] == {"shares": 99}
