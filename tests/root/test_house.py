"""The tests' own house on the real kernel: fixtures keep their word, the broom finds it all."""

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import leftovers
from tests.bundles import Bundle

pytestmark = pytest.mark.needs_root


def in_netns(path: Path, *argv: str) -> str:
    entering = ("nsenter", f"--net={path}", *argv)
    return subprocess.run(entering, check=True, capture_output=True, text=True).stdout


def test_a_fresh_netns_holds_nothing_but_lo(fresh_netns: Path) -> None:
    links = json.loads(in_netns(fresh_netns, "ip", "-json", "link"))
    assert [(link["ifname"], link["operstate"]) for link in links] == [("lo", "DOWN")]


@pytest.mark.needs_busybox
def test_a_bundle_has_a_rootfs_that_programs_run_in(bundle: Callable[..., Bundle]) -> None:
    made = bundle("sh", "-c", "exit 3")
    assert made.spec["process"]["args"] == ["sh", "-c", "exit 3"]
    inside = ("/usr/sbin/chroot", made.rootfs, "/bin/sh", "-c", "id -un; ls /")
    said = subprocess.run(inside, check=True, capture_output=True, text=True, env={"PATH": "/bin"})
    assert {"root", "bin", "dev", "proc"} <= set(said.stdout.split())


@pytest.mark.needs_cgroup_v1
def test_the_broom_kills_what_is_frozen_in_a_cgroup(cgroups_path: str) -> None:
    freezer = next(
        p
        for p in map(Path, leftovers.mount_points())
        if p.name == "freezer" and p.is_relative_to("/sys/fs/cgroup")
    )
    cgroup = Path(f"{freezer}{cgroups_path}")
    (cgroup / "child").mkdir(parents=True)
    with subprocess.Popen(["sleep", "inf"]) as child:
        (cgroup / "child/cgroup.procs").write_text(str(child.pid))
        (cgroup / "freezer.state").write_text("FROZEN")
        for left in leftovers.cgroups(lambda name: name == cgroup.name):
            leftovers.remove_cgroup(left)
        assert child.wait(timeout=5) < 0
    assert not cgroup.exists()


def test_the_broom_removes_mounts_netns_and_directories(name: str) -> None:
    room = Path(tempfile.gettempdir(), name)
    (room / "deep").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", name, room / "deep"], check=True)
    subprocess.run(["ip", "netns", "add", name], check=True)
    leftovers.sweep(lambda found: name in found)
    assert not room.exists()
    assert not (leftovers.NETNS / name).exists()
    assert not [point for point in leftovers.mount_points() if name in point]
