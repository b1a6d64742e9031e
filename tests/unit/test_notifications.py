"""Events of a v2 cgroup, from files that change as the kernel's do; a process stands for init."""

import os
import select
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.errors import CgroupError
from runtime.notifications import Notifications, PressureLevel, oom_source, pressure_source

Init = subprocess.Popen[bytes]


@pytest.fixture
def init() -> Iterator[Init]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def happen(directory: Path, **counted: int) -> None:
    events = {"low": 0, "high": 0, "max": 0, "oom": 0, "oom_kill": 0} | counted
    text = "".join(f"{key} {value}\n" for key, value in events.items())
    (directory / "memory.events").write_text(text)


def test_kills_are_counted_and_other_changes_are_not(tmp_path: Path, init: Init) -> None:
    happen(tmp_path, oom_kill=1)
    with Notifications(oom_source({"": tmp_path}), os.pidfd_open(init.pid)) as oom:
        assert oom.wait(0) == 0
        happen(tmp_path, oom_kill=1, max=5)
        assert oom.wait(1) == 0
        happen(tmp_path, oom_kill=3, max=9)
        assert select.select([oom], [], [], 1)[0] == [oom]
        assert oom.wait(0) == 2
        assert not oom.ended


@pytest.mark.parametrize(
    ("level", "expected"),
    [(PressureLevel.LOW, 6), (PressureLevel.MEDIUM, 3), (PressureLevel.CRITICAL, 1)],
)
def test_a_level_of_pressure_includes_the_higher_ones(
    tmp_path: Path, init: Init, level: PressureLevel, expected: int
) -> None:
    happen(tmp_path)
    source = pressure_source({"": tmp_path}, level)
    with Notifications(source, os.pidfd_open(init.pid)) as scarce:
        happen(tmp_path, high=3, max=2, oom=1)
        assert scarce.wait(1) == expected


def test_the_end_of_init_ends_them_after_what_came_before(tmp_path: Path, init: Init) -> None:
    happen(tmp_path)
    with Notifications(oom_source({"": tmp_path}), os.pidfd_open(init.pid)) as oom:
        happen(tmp_path, oom_kill=1)
        init.kill()
        init.wait()
        assert len(list(oom)) == 1
        assert oom.ended


def test_a_cgroup_without_memory_controller_is_named(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match=r"memory\.events: cannot be read"):
        oom_source({"": tmp_path})
    with pytest.raises(CgroupError, match="controller memory: is not there"):
        oom_source({"cpu": tmp_path})
    with pytest.raises(CgroupError, match=r"memory\.oom_control: cannot be opened"):
        oom_source({"memory": tmp_path})


def test_no_descriptor_is_left(tmp_path: Path, init: Init) -> None:
    before = os.listdir("/proc/self/fd")
    happen(tmp_path)
    with Notifications(oom_source({"": tmp_path}), os.pidfd_open(init.pid)):
        pass
    with pytest.raises(CgroupError):
        oom_source({"memory": tmp_path})
    assert os.listdir("/proc/self/fd") == before


def test_who_waits_is_woken_when_they_are_closed(tmp_path: Path, init: Init) -> None:
    happen(tmp_path)
    oom = Notifications(oom_source({"": tmp_path}), os.pidfd_open(init.pid))
    with ThreadPoolExecutor(2) as threads:
        waits, iterates = threads.submit(oom.wait), threads.submit(list, oom)
        time.sleep(0.1)
        oom.close()
        assert (waits.result(30), iterates.result(30)) == (0, [])
    assert oom.fileno() == -1
