"""How the kernel treats the processes of a container, as it says itself."""

import ctypes
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import Container, SetupFailed, scheduling
from runtime.spec.reading import load_process
from tests.containers import Box
from tests.migratory import Migratory
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

IOPRIO_GET = {"x86_64": 252, "aarch64": 31}[os.uname().machine]
CPUS = "grep Cpus_allowed_list /proc/self/status | cut -f 2"
POLICY = "head -n 1 /proc/self/numa_maps | cut -d ' ' -f 2"
SEVERAL_CPUS = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="has one CPU only")


def io_priority(pid: int) -> int:
    return int(ctypes.CDLL(None).syscall(IOPRIO_GET, 1, pid))


def nice(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


@pytest.fixture
def on_one_cpu() -> Iterator[int]:
    """Keep us to the first CPU."""
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(former)})
    yield min(former)
    os.sched_setaffinity(0, former)


def detached(container: Container, box: Box, **process: object) -> int:
    """The pid of a further process that is described by a process.json."""
    path, pid_file = box.bundle.path / "process.json", box.bundle.path / "pid"
    path.write_text(json.dumps({"args": ["sleep", "inf"], "cwd": "/", **process}))
    described = load_process(path, container.state.spec["process"])
    container.exec(described, pid_file=pid_file, detach=True)
    return int(pid_file.read_text())


def pair_restored(migratory: Migratory) -> list[int]:
    """A process and its child, dumped and restored."""
    migratory.start("sleep 1000 & wait")
    assert eventually(lambda: len(migratory.container.processes()) == 2)
    migratory.checkpoint()
    pids = migratory.restore().processes()
    assert len(pids) == 2
    return pids


def test_the_scheduler_is_that_of_the_spec_and_of_further_processes(box: Box) -> None:
    box.update(process={"scheduler": {"policy": "SCHED_BATCH", "nice": 19}})
    container = box.start()
    batch = scheduling.POLICIES["SCHED_BATCH"]
    for pid in (container.state.init_pid, detached(container, box)):
        assert (os.sched_getscheduler(pid), nice(pid)) == (batch, 19)
    times = {"runtime": 42000, "deadline": 100000, "period": 1000000}
    flags = ["SCHED_FLAG_RESET_ON_FORK"]
    scheduler = {"policy": "SCHED_DEADLINE", "flags": flags, **times}
    pid = detached(container, box, scheduler=scheduler)
    deadline = scheduling.POLICIES["SCHED_DEADLINE"] | os.SCHED_RESET_ON_FORK
    assert os.sched_getscheduler(pid) == deadline


@SEVERAL_CPUS
def test_a_deadline_on_some_cpus_is_refused_with_the_reason(box: Box) -> None:
    times = {"runtime": 42000, "deadline": 1000000, "period": 1000000}
    box.update(
        process={"scheduler": {"policy": "SCHED_DEADLINE", **times}},
        linux={"resources": {"cpu": {"cpus": "0"}}},
    )
    with pytest.raises(SetupFailed, match="can't be used together with AllowedCPUs"):
        box.create()


def test_the_io_priority_is_that_of_the_spec_and_of_further_processes(box: Box) -> None:
    box.update(process={"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6}})
    container = box.start()
    assert io_priority(container.state.init_pid) == 2 << 13 | 6
    assert io_priority(detached(container, box)) == 2 << 13 | 6
    idle = detached(container, box, ioPriority={"class": "IOPRIO_CLASS_IDLE"})
    assert io_priority(idle) == 3 << 13


def test_the_personality_is_everybodys_though_seccomp_forbids_to_change_it(box: Box) -> None:
    rule = {"names": ["personality"], "action": "SCMP_ACT_ERRNO"}
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    box.update(linux={"personality": {"domain": "LINUX32"}, "seccomp": seccomp})
    container = box.start()
    assert Path(f"/proc/{container.state.init_pid}/personality").read_text() == "00000008\n"
    assert box.exec(container, "uname -m").out != f"{os.uname().machine}\n"


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        ({"mode": "MPOL_INTERLEAVE", "nodes": "0"}, "interleave:0"),
        (
            {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
            "bind=static:0",
        ),
        ({"mode": "MPOL_DEFAULT"}, "default"),
    ],
)
def test_the_memory_policy_is_everybodys(box: Box, policy: dict[str, object], shown: str) -> None:
    box.update(linux={"memoryPolicy": policy})
    assert box.shell(POLICY).out.strip() == shown
    box.program("sleep", "inf")
    assert box.exec(box.start(), POLICY).out.strip() == shown


@SEVERAL_CPUS
@pytest.mark.usefixtures("on_one_cpu")
def test_a_process_may_run_on_all_cpus_of_its_cpuset_wherever_we_are(box: Box) -> None:
    everywhere = Path("/sys/devices/system/cpu/online").read_text()
    assert box.shell(CPUS).out == everywhere
    box.program("sleep", "inf")
    container = box.start()
    assert box.exec(container, CPUS).out == everywhere
    container.delete(force=True)
    box.update(linux={"resources": {"cpu": {"cpus": "1"}}})
    container = box.start()
    assert os.sched_getaffinity(container.state.init_pid) == {1}
    assert box.exec(container, CPUS).out == "1\n"


@SEVERAL_CPUS
def test_a_further_process_is_kept_to_its_cpus(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "runtime")
    box.update(process={"execCPUAffinity": {"initial": "0", "final": "1"}})
    container = box.start()
    assert box.exec(container, CPUS).out == "1\n"
    assert "affinity: 0x1" in caplog.text
    with pytest.raises(SetupFailed, match="setting the final CPU affinity: invalid argument"):
        box.exec(container, "true", exec_cpu_affinity={"final": (8000,)})


@pytest.mark.needs_criu
def test_what_is_restored_is_treated_as_the_spec_says(migratory: Migratory) -> None:
    migratory.box.update(
        process={
            "scheduler": {"policy": "SCHED_BATCH", "nice": 19},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
        },
        linux={
            "personality": {"domain": "LINUX32"},
            "memoryPolicy": {"mode": "MPOL_INTERLEAVE", "nodes": "0"},
        },
    )
    for pid in pair_restored(migratory):
        process = Path(f"/proc/{pid}")
        assert io_priority(pid) == 2 << 13 | 6
        assert (process / "personality").read_text() == "00000008\n"
        assert (process / "numa_maps").read_text().split()[1] == "interleave:0"
        assert (os.sched_getscheduler(pid), nice(pid)) == (scheduling.POLICIES["SCHED_BATCH"], 19)


@SEVERAL_CPUS
@pytest.mark.needs_criu
@pytest.mark.usefixtures("on_one_cpu")
def test_what_is_restored_may_run_on_all_cpus_wherever_we_are(migratory: Migratory) -> None:
    everywhere = Path("/sys/devices/system/cpu/online").read_text()
    for pid in pair_restored(migratory):
        assert f"Cpus_allowed_list:\t{everywhere}" in Path(f"/proc/{pid}/status").read_text()


def test_what_a_process_json_leaves_open_is_as_in_the_container(box: Box) -> None:
    box.update(
        process={
            "user": {"uid": 0, "gid": 0, "umask": 0o77},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 4096, "hard": 8192}],
            "oomScoreAdj": 333,
        }
    )
    container = box.start()
    process = Path(f"/proc/{detached(container, box)}")
    assert "Umask:\t0077\n" in (process / "status").read_text()
    assert "4096                 8192" in (process / "limits").read_text()
    assert (process / "oom_score_adj").read_text() == "333\n"
    bounding = [line for line in (process / "status").read_text().splitlines() if "CapBnd" in line]
    assert bounding == ["CapBnd:\t0000000020000420"]
