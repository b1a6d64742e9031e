"""Which hierarchies there are, and which manager drives them."""

from pathlib import Path

import pytest

from runtime.cgroups import detect, manager, resolve_path
from runtime.cgroups.detect import Hierarchies, arrange, cgroup_mounts
from runtime.cgroups.v1 import V1Manager
from runtime.cgroups.v2 import V2Manager, hand_down
from runtime.rootfs import mountinfo

V1 = """\
22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup none rw,memory
35 31 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
36 31 0:33 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset,noprefix,clone_children
"""
HYBRID = f"{V1}37 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot\n"
ROOT = Path("/sys/fs/cgroup")


def hierarchies(text: str) -> Hierarchies:
    return arrange(cgroup_mounts(mountinfo.parse(text)))


def test_v1_has_each_controller_where_it_is_mounted() -> None:
    found = hierarchies(V1)
    assert found.v1 == {
        "cpu": ROOT / "cpu,cpuacct",
        "cpuacct": ROOT / "cpu,cpuacct",
        "memory": ROOT / "memory",
        "name=systemd": ROOT / "systemd",
        "cpuset": ROOT / "cpuset",
    }
    assert (found.v2, found.version) == (None, "v1")


def test_hybrid_is_driven_through_v1() -> None:
    found = hierarchies(HYBRID)
    assert (found.v2, found.version) == (ROOT / "unified", "v1")


def test_on_a_hybrid_host_a_container_is_in_the_unified_hierarchy_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detect, "detect", lambda: hierarchies(HYBRID))
    found = manager("/pods/c1")
    assert isinstance(found, V1Manager)
    assert found.paths["unified"] == ROOT / "unified/pods/c1"


def test_v2_alone_is_v2() -> None:
    assert hierarchies(V2) == Hierarchies({}, ROOT)
    assert hierarchies(V2).version == "v2"


def test_v2_beside_systemd_s_own_hierarchy_is_v2() -> None:
    line = "35 31 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    assert hierarchies(line + V2).version == "v2"


def test_the_usual_place_counts_before_others() -> None:
    other = "29 1 0:26 / /mnt/cgroup rw - cgroup2 cgroup rw\n"
    assert hierarchies(other + V2).v2 == ROOT


@pytest.mark.parametrize(
    ("given", "path"),
    [("", "/migrator/c1"), ("pods/a", "/migrator/pods/a"), ("/pods/a", "/pods/a")],
)
def test_a_relative_path_and_none_lie_below_ours(given: str, path: str) -> None:
    assert resolve_path(given, "c1") == path


def test_saved_paths_make_a_manager_again() -> None:
    saved = {"cpu": "/c/x", "cpuacct": "/c/x", "memory": "/m/x"}
    again = manager("/x", paths=saved)
    assert isinstance(again, V1Manager)
    assert {name: str(path) for name, path in again.paths.items()} == saved
    assert again.directories == [Path("/c/x"), Path("/m/x")]
    assert isinstance(manager("/x", paths={"": "/sys/fs/cgroup/x"}), V2Manager)


def test_cgroups_that_are_not_there_have_no_processes_and_are_not_frozen(tmp_path: Path) -> None:
    gone = manager("/x", paths={"freezer": str(tmp_path / "none")})
    assert not gone.exists()
    assert not gone.frozen()
    assert gone.processes() == []
    gone.kill_all()
    gone.destroy()


@pytest.mark.parametrize(("enabled", "written"), [("", "+cpu"), ("cpu\n", "cpu\n")])
def test_a_controller_is_handed_down_once(tmp_path: Path, enabled: str, written: str) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    (tmp_path / "cgroup.subtree_control").write_text(enabled)
    hand_down(tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == written
