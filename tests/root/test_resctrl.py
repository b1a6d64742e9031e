"""Groups of Intel RDT, where there is none: a hierarchy of cgroup v1 has `tasks` of the same kind.

Both are of the kernel's kernfs: a directory that is made has its files at once, a pid is taken one
a write, and what a process forks is where it is.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import SetupFailed, UnsupportedField, resctrl, resctrl_group
from runtime.resctrl_group import Groups
from runtime.undo import Undo
from tests.containers import Box
from tests.migratory import Migratory

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_cgroup_v1]


@pytest.fixture
def at(box: Box, cgroups_path: str) -> Path:
    """As resctrl is mounted, with the group gold."""
    mounted = next(
        Path(line.split()[4])
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if " - cgroup " in line and "freezer" not in line  # which tells a container's processes
    )
    root = Path(f"{mounted}{cgroups_path}")
    (root / "gold/mon_groups").mkdir(parents=True)
    return root


@pytest.fixture
def sleeping() -> Iterator[int]:
    with subprocess.Popen(["sleep", "inf"]) as process:
        yield process.pid
        process.kill()


def members(group: str) -> list[int]:
    return [int(pid) for pid in Path(group, "tasks").read_text().split()]


def gold(at: Path, container_id: str) -> Groups:
    wanted = {"closID": "gold", "enableMonitoring": True}
    with Undo() as undo:
        return resctrl_group.make(wanted, container_id, at=at, undo=undo)


def test_a_process_is_put_into_the_groups_one_after_the_other(at: Path, sleeping: int) -> None:
    groups = gold(at, "c1")
    resctrl_group.join(groups.joined[:1], sleeping, at=at)
    assert members(str(at / "gold")) == [sleeping]
    resctrl_group.join(groups.joined, sleeping, at=at)
    assert members(str(at / "gold/mon_groups/c1")) == [sleeping]


def test_one_that_has_ended_is_told_with_the_file(at: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with pytest.raises(SetupFailed, match=r"setting Intel RDT: .*/gold/tasks: no such process"):
        resctrl_group.join([str(at / "gold")], ended.pid, at=at)


def test_a_further_process_is_in_the_groups_of_its_container(box: Box, at: Path) -> None:
    container, pid_file = box.start(), box.bundle.path / "pid"
    groups = gold(at, container.id)
    container.state._replace(rdt_joined=groups.joined).save(container.dir)
    container.exec(container.spec.process, detach=True, pid_file=pid_file)
    assert members(groups.joined[-1]) == [int(pid_file.read_text())]


@pytest.mark.needs_criu
@pytest.mark.skipif(resctrl.root() is not None, reason="has Intel RDT")
def test_what_is_restored_is_not_left_without_its_group(migratory: Migratory) -> None:
    migratory.start().checkpoint()
    migratory.box.update(linux={"intelRdt": {"closID": "gold"}})
    with pytest.raises(UnsupportedField, match=r"linux.intelRdt: the resctrl filesystem is not"):
        migratory.restore()
    assert not list(migratory.box.root.iterdir())
