"""Cgroups of the real kernel: made, limited, frozen, killed, and gone afterwards."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups import CgroupManager, bpf, manager, resolve_path, tree
from runtime.cgroups.detect import UNIFIED, detect
from runtime.cgroups.devices import rules
from runtime.container import Container
from runtime.errors import CgroupError, UnsupportedField
from tests import leftovers
from tests.bundles import Bundle
from tests.containers import Box

Process = subprocess.Popen[bytes]

pytestmark = pytest.mark.needs_root

MIB = 1 << 20
# Counts as fast as it can, in a file that the test reads.
COUNTER = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    page = mmap.mmap(file.fileno(), 4096)
count = 0
while True:
    count += 1
    page[:8] = count.to_bytes(8, "little")
"""
DENY_ALL = [{"allow": False, "access": "rwm"}]


@pytest.fixture
def spawn() -> Iterator[Callable[..., Process]]:
    """Starts processes that end with the test."""
    started: list[Process] = []

    def start(*argv: str | Path, **options: Any) -> Process:
        started.append(subprocess.Popen(argv, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def v1(name: str) -> Iterator[CgroupManager]:
    yield from removed(manager(resolve_path("", name)))


@pytest.fixture
def own(name: str) -> Iterator[CgroupManager]:
    """A container's cgroup on a host with nothing but v2, as a container gets it."""
    yield from removed(manager(resolve_path("", name)))


@pytest.fixture
def v2(name: str) -> Iterator[CgroupManager]:
    root = detect().v2
    assert root is not None
    yield from removed(manager("", paths={"": str(root / "migrator" / name)}))


def removed(cgroup: CgroupManager) -> Iterator[CgroupManager]:
    yield cgroup
    for directory in cgroup.directories:
        leftovers.remove_cgroup(directory)
        tree.remove_empty([directory.parent])


def cgroup_of(pid: int) -> dict[str, str]:
    """Controller -> path, of a process."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    fields = (line.split(":", 2) for line in lines)
    return {name: path for _, names, path in fields for name in names.split(",")}


def count(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[:8], "little")


def counter(path: Path, spawn: Callable[..., Process]) -> Process:
    path.write_bytes(bytes(4096))
    process = spawn(sys.executable, "-c", COUNTER, path)
    wait_until(lambda: count(path) > 0)
    return process


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stands_empty(parent: Path) -> bool:
    """Whether it is there without any cgroup in it."""
    top = next(os.walk(parent), None)
    return top is not None and not top[1]


def put(cgroup: CgroupManager, pid: int) -> None:
    cgroup.create()
    cgroup.join(pid)


def enter(cgroup: CgroupManager, spawn: Callable[..., Process], script: str) -> Process:
    """Run *script* in *cgroup*, all of it: it waits until the shell has been moved."""
    process = spawn("sh", "-c", f"read go; {script}", stdin=subprocess.PIPE)
    put(cgroup, process.pid)
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()
    return process


def check_freezing(cgroup: CgroupManager, spawn: Callable[..., Process], path: Path) -> None:
    process = counter(path, spawn)
    put(cgroup, process.pid)
    assert not cgroup.frozen()
    cgroup.freeze()
    assert cgroup.frozen()
    frozen_at = count(path)
    time.sleep(0.05)
    assert count(path) == frozen_at
    cgroup.freeze()
    cgroup.thaw()
    assert not cgroup.frozen()
    wait_until(lambda: count(path) > frozen_at)


def check_killing(cgroup: CgroupManager, spawn: Callable[..., Process]) -> None:
    forks = "while :; do sh -c 'sleep 0.01 & sleep 0.01' & sleep 0.001; done"
    process = enter(cgroup, spawn, forks)
    wait_until(lambda: len(cgroup.processes()) > 3)
    cgroup.kill_all()
    assert cgroup.processes() == []
    assert process.wait() == -signal.SIGKILL
    cgroup.destroy()
    assert not cgroup.exists()


@pytest.mark.needs_cgroup_v1
class TestV1:
    def test_a_process_is_in_every_hierarchy(
        self, v1: CgroupManager, spawn: Callable[..., Process], name: str
    ) -> None:
        process = spawn("sleep", "60")
        put(v1, process.pid)
        found = cgroup_of(process.pid)
        names = {"" if name == UNIFIED else name for name in v1.paths}
        assert {found[controller] for controller in names} == {f"/migrator/{name}"}
        assert {"memory", "pids", "cpu", "cpuset", "devices", "freezer"} <= v1.paths.keys()
        assert v1.processes() == [process.pid]

    def test_limits_are_in_the_files(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        put(v1, spawn("sleep", "60").pid)
        v1.set(
            {
                "memory": {"limit": 1 << 26, "reservation": 1 << 25, "swap": 1 << 27},
                "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "burst": 1000},
                "pids": {"limit": 20},
                "devices": DENY_ALL,
            }
        )
        expected = {
            ("memory", "memory.limit_in_bytes"): str(1 << 26),
            ("memory", "memory.soft_limit_in_bytes"): str(1 << 25),
            ("memory", "memory.memsw.limit_in_bytes"): str(1 << 27),
            ("cpu", "cpu.shares"): "512",
            ("cpu", "cpu.cfs_quota_us"): "50000",
            ("cpu", "cpu.cfs_period_us"): "100000",
            ("cpu", "cpu.cfs_burst_us"): "1000",
            ("pids", "pids.max"): "20",
        }
        for (controller, file), value in expected.items():
            assert tree.read(v1.paths[controller] / file) == value

    def test_cpus_and_memory_nodes_are_the_parent_s_until_they_are_set(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        put(v1, spawn("sleep", "60").pid)
        cpuset = v1.paths["cpuset"]
        assert tree.read(cpuset / "cpuset.cpus") == tree.read(cpuset.parent / "cpuset.cpus") != ""
        v1.set({"cpu": {"cpus": "0", "mems": "0"}})
        assert tree.read(cpuset / "cpuset.cpus") == "0"

    @pytest.mark.parametrize("limits", [(1 << 26, 1 << 27), (1 << 29, 1 << 30), (1 << 24, 1 << 24)])
    def test_memory_limits_can_be_raised_and_lowered(
        self, v1: CgroupManager, spawn: Callable[..., Process], limits: tuple[int, int]
    ) -> None:
        put(v1, spawn("sleep", "60").pid)
        v1.set({"memory": {"limit": 1 << 27, "swap": 1 << 28}})
        v1.set({"memory": {"limit": limits[0], "swap": limits[1]}})
        memory = v1.paths["memory"]
        assert int(tree.read(memory / "memory.limit_in_bytes")) == limits[0]
        assert int(tree.read(memory / "memory.memsw.limit_in_bytes")) == limits[1]
        v1.set({"memory": {"limit": -1}})
        assert int(tree.read(memory / "memory.memsw.limit_in_bytes")) > 1 << 60

    def test_the_pids_limit_holds(self, v1: CgroupManager, spawn: Callable[..., Process]) -> None:
        script = "read go; for i in 1 2 3 4 5 6; do sleep 0.2 & done"
        process = spawn("sh", "-c", script, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        put(v1, process.pid)
        v1.set({"pids": {"limit": 4}})
        assert b"fork" in process.communicate(b"go\n")[1].lower()

    def test_devices_are_denied_by_default_but_for_the_usual(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        process = reader(spawn)
        put(v1, process.pid)
        v1.set({})
        assert opened(process) == {"/dev/null": True, "/dev/kmsg": False}

    def test_a_device_can_be_allowed_and_denied_again(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        allowed = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
        process = reader(spawn)
        put(v1, process.pid)
        v1.set({"devices": [*DENY_ALL, allowed]})
        assert "c 1:11 r" in tree.read(v1.paths["devices"] / "devices.list").splitlines()
        v1.set({"devices": DENY_ALL})
        assert opened(process)["/dev/kmsg"] is False

    def test_all_devices_can_be_allowed(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        process = reader(spawn)
        put(v1, process.pid)
        v1.set({"devices": [{"allow": True, "access": "rwm"}]})
        assert tree.read(v1.paths["devices"] / "devices.list") == "a *:* rwm"
        assert opened(process) == {"/dev/null": True, "/dev/kmsg": True}

    def test_a_frozen_container_stands_still(
        self, v1: CgroupManager, spawn: Callable[..., Process], tmp_path: Path
    ) -> None:
        check_freezing(v1, spawn, tmp_path / "count")
        assert v1.freezer_path == v1.paths["freezer"]

    def test_containers_that_are_made_at_once_do_not_disturb_each_other(
        self, name: str, spawn: Callable[..., Process]
    ) -> None:
        cgroups = [manager(resolve_path("", f"{name}-{number}")) for number in range(8)]
        processes = [spawn("sleep", "60") for _ in cgroups]

        def live(cgroup: CgroupManager, process: Process) -> None:
            put(cgroup, process.pid)
            cgroup.kill_all()
            process.wait()
            cgroup.destroy()

        with ThreadPoolExecutor(len(cgroups)) as pool:
            list(pool.map(live, cgroups, processes))
        assert not any(cgroup.exists() for cgroup in cgroups)

    def test_many_forking_processes_freeze(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        forks = "while :; do (:) & wait; done"
        enter(v1, spawn, f"{4 * f'({forks}) & '} wait")
        wait_until(lambda: len(v1.processes()) > 4)
        for _ in range(50):
            v1.freeze()
            v1.thaw()
        v1.kill_all()

    def test_all_are_killed_though_they_fork(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        check_killing(v1, spawn)

    def test_a_frozen_container_is_killed(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        process = spawn("sleep", "60")
        put(v1, process.pid)
        v1.freeze()
        v1.kill_all()
        assert process.wait() == -signal.SIGKILL

    def test_a_manager_made_of_saved_paths_does_the_same(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        process = spawn("sleep", "60")
        put(v1, process.pid)
        again = manager("", paths={name: str(path) for name, path in v1.paths.items()})
        again.freeze()
        assert v1.frozen()
        again.kill_all()
        process.wait()
        again.destroy()
        assert not v1.exists()

    def test_nothing_is_left_behind_not_even_cgroups_made_inside(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        process = spawn("sleep", "60")
        put(v1, process.pid)
        inner = v1.paths["freezer"] / "a/b"
        inner.mkdir(parents=True)
        (inner / "cgroup.procs").write_text(str(process.pid))
        assert v1.processes() == [process.pid]
        v1.kill_all()
        process.wait()
        v1.destroy()
        assert not any(directory.exists() for directory in v1.directories)
        wait_until(lambda: not stands_empty(v1.paths["freezer"].parent))  # others' come and go

    def test_a_cgroup_in_use_is_not_removed(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        process = spawn("sleep", "60")
        put(v1, process.pid)
        with pytest.raises(CgroupError, match=rf"processes \[{process.pid}\] are in it: kill them"):
            v1.destroy()

    def test_a_cgroup_in_use_is_not_taken(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        first, second = spawn("sleep", "60"), spawn("sleep", "60")
        put(v1, first.pid)
        with pytest.raises(CgroupError, match=rf"not empty: processes \[{first.pid}\] .*choose"):
            put(v1, second.pid)
        assert v1.processes() == [first.pid]
        v1.join(second.pid)
        assert v1.processes() == sorted((first.pid, second.pid))

    @pytest.mark.needs_busybox
    def test_a_container_that_cannot_have_its_cgroup_leaves_its_owner_alone(
        self,
        v1: CgroupManager,
        spawn: Callable[..., Process],
        bundle: Callable[..., Bundle],
        state_root: Path,
        name: str,
    ) -> None:
        owner = spawn("sleep", "60")
        put(v1, owner.pid)
        made = bundle()
        made.update(linux={"cgroupsPath": f"/migrator/{name}"})
        with pytest.raises(CgroupError, match=rf"not empty: processes \[{owner.pid}\]"):
            Container.create(state_root, name, made.path)
        assert owner.poll() is None
        assert v1.processes() == [owner.pid]
        assert list(state_root.iterdir()) == []

    def test_a_frozen_cgroup_is_not_taken(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        v1.paths["freezer"].mkdir(parents=True)
        v1.freeze()
        with pytest.raises(CgroupError, match="unexpectedly frozen"):
            put(v1, spawn("sleep", "60").pid)

    def test_a_limit_that_the_kernel_refuses_is_told_with_its_file(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        put(v1, spawn("sleep", "60").pid)
        with pytest.raises(CgroupError, match=r"cfs_period_us: cannot write '5': Invalid argument"):
            v1.set({"cpu": {"period": 5}})

    def test_what_v1_lacks_is_refused_by_name(
        self, v1: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        put(v1, spawn("sleep", "60").pid)
        with pytest.raises(UnsupportedField, match=r"linux\.resources\.unified"):
            v1.set({"unified": {"memory.high": "1"}})
        with pytest.raises(CgroupError, match=r"controller rdma: .* linux\.resources\.rdma needs"):
            v1.set({"rdma": {"mlx5_1": {"hcaHandles": 1}}})

    def test_a_deeper_path_of_one_s_own_is_used(
        self, name: str, spawn: Callable[..., Process]
    ) -> None:
        deep = manager(f"/migrator/{name}/pod/c1")
        process = spawn("sleep", "60")
        try:
            put(deep, process.pid)
            assert cgroup_of(process.pid)["cpuset"] == f"/migrator/{name}/pod/c1"
            deep.kill_all()
            process.wait()
        finally:
            deep.destroy()
        assert deep.paths["cpu"].parent.exists()
        for directory in deep.directories:
            tree.remove_empty(list(directory.parents)[:3])


@pytest.mark.needs_cgroup_v2_tree
class TestV2:
    """What the core of v2 can do without any controller."""

    def test_a_frozen_container_stands_still(
        self, v2: CgroupManager, spawn: Callable[..., Process], tmp_path: Path
    ) -> None:
        bare(v2)
        check_freezing(v2, spawn, tmp_path / "count")
        assert v2.freezer_path == v2.paths[""]

    def test_all_are_killed_though_they_fork(
        self, v2: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        bare(v2)
        check_killing(v2, spawn)

    def test_a_frozen_container_is_killed(
        self, v2: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        bare(v2)
        process = spawn("sleep", "60")
        put(v2, process.pid)
        v2.freeze()
        v2.kill_all()
        assert process.wait() == -signal.SIGKILL

    def test_the_device_program_decides(
        self, v2: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        bare(v2)
        process = reader(spawn)
        put(v2, process.pid)
        bpf.set_device_rules(v2.paths[""], rules({}))
        assert opened(process) == {"/dev/null": True, "/dev/kmsg": False}

    def test_a_new_device_program_takes_the_place_of_the_former(
        self, v2: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        bare(v2)
        process = reader(spawn)
        put(v2, process.pid)
        for given in (DENY_ALL, [{"allow": True, "access": "rwm"}]):
            bpf.set_device_rules(v2.paths[""], rules({"devices": given}))
        assert opened(process) == {"/dev/null": True, "/dev/kmsg": True}

    def test_a_resource_without_its_controller_is_refused(
        self, v2: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        bare(v2)
        put(v2, spawn("sleep", "60").pid)
        with pytest.raises(CgroupError, match=r"controller nosuch: .* linux\.resources\.unified"):
            v2.set({"unified": {"nosuch.max": "1"}})


@pytest.mark.needs_cgroup_v2
class TestV2Controllers:
    def test_limits_are_in_the_files(
        self, own: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        process = spawn("sleep", "60")
        put(own, process.pid)
        own.set(
            {
                "memory": {"limit": 1 << 26, "reservation": 1 << 25},
                "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0"},
                "pids": {"limit": 20},
                "unified": {"memory.high": str(1 << 24)},
                "devices": DENY_ALL,
            }
        )
        expected = {
            "memory.max": str(1 << 26),
            "memory.low": str(1 << 25),
            "memory.high": str(1 << 24),
            "cpu.weight": "100",
            "cpu.max": "50000 100000",
            "cpuset.cpus": "0",
            "pids.max": "20",
            "cgroup.procs": str(process.pid),
        }
        assert {file: tree.read(own.paths[""] / file) for file in expected} == expected

    def test_a_limit_below_the_usage_is_rejected_when_that_is_asked_for(
        self, own: CgroupManager
    ) -> None:
        with subprocess.Popen(["sleep", "60"]) as process:
            put(own, process.pid)
            with pytest.raises(CgroupError, match=r"rejecting memory limit 1: "):
                own.set({"memory": {"limit": 1, "checkBeforeUpdate": True}})
            process.kill()

    def test_a_frozen_container_stands_still(
        self, own: CgroupManager, spawn: Callable[..., Process], tmp_path: Path
    ) -> None:
        check_freezing(own, spawn, tmp_path / "count")

    def test_nothing_is_left_behind(
        self, own: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        check_killing(own, spawn)
        assert not own.paths[""].exists()
        wait_until(lambda: not stands_empty(own.paths[""].parent))  # others' come and go

    def test_what_v2_lacks_is_refused_by_name(
        self, own: CgroupManager, spawn: Callable[..., Process]
    ) -> None:
        put(own, spawn("sleep", "60").pid)
        with pytest.raises(UnsupportedField, match=r"linux\.resources\.memory\.swappiness"):
            own.set({"memory": {"swappiness": 10}})


def bare(v2: CgroupManager) -> None:
    """Make the cgroup without handing controllers down: the tree above it is the machine's own."""
    v2.paths[""].mkdir(parents=True)


def mount_cgroup(box: Box, options: list[str]) -> None:
    cgroup = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}
    others = [m for m in box.bundle.spec["mounts"] if m["type"] != "cgroup"]
    box.update(mounts=[*others, cgroup | {"options": options}])


def reader(spawn: Callable[..., Process]) -> Process:
    """A process that tries to open two devices when `opened` tells it to."""
    script = "read go; for d in /dev/null /dev/kmsg; do (: <$d) 2>&1 && echo $d; done"
    return spawn(
        *("sh", "-c", script),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def opened(process: Process) -> dict[str, bool]:
    said = process.communicate(b"go\n")[0].decode().splitlines()
    return {device: device in said for device in ("/dev/null", "/dev/kmsg")}


@pytest.mark.needs_cgroup_v2
@pytest.mark.needs_busybox
class TestV2Containers:
    """What only a container shows: its limits by name, and whose its cgroup is."""

    def test_names_of_v2_come_before_limits_of_both_versions(self, box: Box) -> None:
        unified = {"memory.max": str(40 * MIB), "pids.max": "42", "cpu.max": "5000 50000"}
        limits = {"memory": {"limit": 32 * MIB, "swap": 48 * MIB}, "cpu": {"shares": 3333}}
        box.update(linux={"resources": {**limits, "unified": unified}})
        container = box.start()

        def files() -> dict[str, str]:
            names = (*unified, "memory.swap.max", "cpu.weight")
            return {name: tree.read(container.cgroup.paths[""] / name) for name in names}

        assert files() == unified | {"memory.swap.max": str(16 * MIB), "cpu.weight": "256"}
        container.set({"unified": {"pids.max": "50"}, "memory": {"swap": 36 * MIB}})
        assert files()["pids.max"] == "50"
        assert files()["memory.swap.max"] == str(4 * MIB)
        before = files()
        with pytest.raises(CgroupError, match="nonsense"):
            container.set({"pids": {"limit": 9}, "unified": {"cpu.max": "nonsense"}})
        assert files() == before

    @pytest.mark.parametrize(("options", "user"), [(["ro"], "nobody"), ([], "root")])
    def test_a_user_of_its_own_may_manage_it_where_it_is_writable(
        self, box: Box, options: list[str], user: str
    ) -> None:
        ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        kinds = [*box.bundle.spec["linux"]["namespaces"], {"type": "user"}]
        box.update(linux={"namespaces": kinds, "uidMappings": ids, "gidMappings": ids})
        mount_cgroup(box, ["nosuid", *options])
        (box.bundle.rootfs / "etc/passwd").write_text("root:x:0:0::/:\nnobody:x:65534:65534::/:\n")
        os.chown(box.bundle.rootfs, 100000, 100000)
        assert box.shell("stat -c %U /sys/fs/cgroup").out == f"{user}\n"

    def test_without_a_namespace_it_may_leave_its_cgroup_and_further_processes_follow(
        self, box: Box
    ) -> None:
        kinds = box.bundle.spec["linux"]["namespaces"]
        box.update(linux={"namespaces": [each for each in kinds if each["type"] != "cgroup"]})
        mount_cgroup(box, [])
        (other := Path(f"/sys/fs/cgroup/{box.id}-other")).mkdir()
        try:
            box.program("sh", "-c", f"echo 1 > {other}/cgroup.procs; exec sleep 60")
            container = box.start()
            wait_until(lambda: not container.cgroup.processes())
            container.cgroup.paths[""].rmdir()
            assert box.exec(container, "cat /proc/self/cgroup").out == f"0::/{other.name}\n"
            container.delete(force=True)
        finally:
            leftovers.remove_cgroup(other)


@pytest.mark.needs_busybox
@pytest.mark.parametrize("rootless", [None, True, False])
def test_root_of_the_host_denies_devices_whatever_is_said_of_rootless(
    box: Box, rootless: bool | None
) -> None:
    # No driver has this number: who may open it is told ENXIO.
    node = {"path": "/dev/none", "type": "c", "major": 240, "minor": 77}
    box.update(linux={"devices": [node]})
    box.program("sh", "-c", "cat /dev/none")
    assert "not permitted" in box.run(rootless=rootless).err
