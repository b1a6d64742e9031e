"""A rootfs that wants us to touch the host: links to it, and directories exchanged meanwhile.

Each test makes a directory that plays the host's, lets the rootfs point at it in one more way, and
asks afterwards whether anything there has changed.
"""

import ctypes
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import ContainerError, SetupFailed
from runtime.constants import AT_FDCWD
from tests.bundles import mount
from tests.containers import Box

RENAME_EXCHANGE = 2

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]


class Host:
    """A directory outside of the rootfs that must stay as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "directory").mkdir(parents=True)
        (path / "file").write_text("untouched")
        self.before = self.content()

    def content(self) -> list[tuple[str, Any]]:
        return [
            (str(path), (path.lstat().st_mode, path.read_text() if path.is_file() else ""))
            for path in sorted(self.path.rglob("*"))
        ]

    def untouched(self) -> bool:
        mounted = str(self.path) in Path("/proc/self/mountinfo").read_text()
        return self.content() == self.before and not mounted


@pytest.fixture
def host(room: Path) -> Iterator[Host]:
    host = Host(room / "host")
    yield host
    assert host.untouched()


def replace(path: Path, target: Path | str) -> None:
    """Put a symbolic link in the place of *path*."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("kind", ["proc", "sysfs"])
def test_proc_and_sysfs_are_not_mounted_over_a_link(box: Box, host: Host, kind: str) -> None:
    path = {"proc": "proc", "sysfs": "sys"}[kind]
    replace(box.bundle.rootfs / path, "/tmp")
    box.update(mounts=[mount(f"/{path}", kind)])
    with pytest.raises(SetupFailed, match=f"{kind} on /{path}"):
        box.shell("true")


@pytest.mark.parametrize("where", ["absolute", "relative", "through a directory"])
def test_mount_points_stay_inside(box: Box, host: Host, where: str) -> None:
    """The link is resolved with the rootfs as its root, and the mount lands there."""
    target = {
        "absolute": str(host.path),
        "relative": "../" * 20 + str(host.path).lstrip("/"),
        "through a directory": str(host.path / "directory"),
    }[where]
    replace(box.bundle.rootfs / "link", target)
    box.update(mounts=[*box.bundle.spec["mounts"], mount("/link/new/point", "tmpfs", "size=64k")])
    assert box.shell("touch /link/new/point/x && cat /proc/self/mountinfo").status == 0
    inside = box.bundle.rootfs / str(target).lstrip("./")
    assert (inside / "new/point").is_dir()


def test_a_file_to_be_bound_on_is_made_inside(box: Box, host: Host) -> None:
    source = box.bundle.path / "source"
    source.write_text("content")
    replace(box.bundle.rootfs / "link", host.path / "new")
    bound = {"destination": "/link", "type": "bind", "source": str(source), "options": ["bind"]}
    box.update(mounts=[*box.bundle.spec["mounts"], bound])
    assert box.shell("cat /link").out == "content"


def test_an_existing_file_of_the_host_is_not_bound_on(box: Box, host: Host) -> None:
    replace(box.bundle.rootfs / "etc/passwd", host.path / "file")
    bound = {"destination": "/etc/passwd", "type": "bind", "source": "/dev/null"}
    box.update(mounts=[*box.bundle.spec["mounts"], bound])
    assert box.shell("cat /etc/passwd").out == ""


def test_dev_as_a_link_gets_no_devices_on_the_host(box: Box, host: Host) -> None:
    replace(box.bundle.rootfs / "dev", host.path / "directory")
    box.update(mounts=[mount("/proc", "proc")])
    assert box.shell("ls /dev/").out.split()


def test_devices_in_a_linked_directory_are_made_inside(box: Box, host: Host) -> None:
    replace(box.bundle.rootfs / "devices", host.path / "directory")
    node = {"type": "c", "path": "/devices/zero", "major": 1, "minor": 5}
    box.update(linux={"devices": [node]})
    assert box.shell("ls /devices/zero").status == 0


def test_a_device_does_not_follow_a_link_in_its_place(box: Box, host: Host) -> None:
    replace(box.bundle.rootfs / "zero", host.path / "file")
    node = {"type": "c", "path": "/zero", "major": 1, "minor": 5, "uid": 1000}
    box.update(linux={"devices": [node]})
    box.shell("true")


def test_masked_and_readonly_paths_do_not_lead_out(box: Box, host: Host) -> None:
    replace(box.bundle.rootfs / "masked", host.path / "file")
    replace(box.bundle.rootfs / "readonly", host.path / "directory")
    box.update(linux={"maskedPaths": ["/masked"], "readonlyPaths": ["/readonly"]})
    assert box.shell("true").status == 0


def test_a_fake_null_device_masks_nothing(box: Box, host: Host) -> None:
    """CVE-2025-31133: with a link as /dev/null, masking would bind what the link leads to."""
    box.update(mounts=[mount("/proc", "proc")], linux={"maskedPaths": ["/etc/passwd"]})
    replace(box.bundle.rootfs / "dev/null", "/proc/sysrq-trigger")
    outcome = box.shell("stat -c '%F %t:%T' /etc/passwd")
    assert outcome.out == "character special file 1:3\n"


@pytest.mark.parametrize("path", ["/proc/self/attr", "/proc/sys/kernel", "/proc/1/fd"])
def test_nothing_is_mounted_into_proc(box: Box, path: str) -> None:
    """CVE-2019-16884, CVE-2019-19921: what we write there later would land elsewhere."""
    replace(box.bundle.rootfs / "link", path)
    for destination in (path, "/link"):
        box.update(mounts=[mount("/proc", "proc"), mount(destination, "tmpfs")])
        with pytest.raises(SetupFailed, match=r"of the proc filesystem|symbolic links"):
            box.shell("true")


def test_files_that_lxcfs_shows_may_be_mounted_into_proc(box: Box) -> None:
    source = box.bundle.path / "uptime"
    source.write_text("1.00 1.00\n")
    bound = {"destination": "/proc/uptime", "type": "bind", "source": str(source)}
    box.update(mounts=[mount("/proc", "proc"), bound])
    assert box.shell("cat /proc/uptime").out == "1.00 1.00\n"


def test_the_working_directory_is_made_inside(box: Box, host: Host) -> None:
    replace(box.bundle.rootfs / "link", host.path)
    assert box.shell("pwd", cwd="/link/work").out.endswith("/host/work\n")


def test_a_loop_of_links_is_an_error(box: Box) -> None:
    replace(box.bundle.rootfs / "a", "b/x")
    replace(box.bundle.rootfs / "b", "a/y")
    box.update(mounts=[mount("/a", "tmpfs")])
    with pytest.raises(SetupFailed, match="symbolic links"):
        box.shell("true")


def test_a_chain_of_dangling_links_ends_inside(box: Box, host: Host) -> None:
    rootfs = box.bundle.rootfs
    replace(rootfs / "one", "/two/deeper")
    replace(rootfs / "two", str(host.path / "none"))
    box.update(mounts=[*box.bundle.spec["mounts"], mount("/one/more", "tmpfs")])
    assert box.shell("ls -d /one/more").status == 0


def test_directories_exchanged_for_links_meanwhile_never_lead_out(box: Box, host: Host) -> None:
    """Another container may share the volume and rename as fast as it can."""
    rootfs, stop = box.bundle.rootfs, threading.Event()
    (rootfs / "swap/a").mkdir(parents=True)
    (rootfs / "swap/link").symlink_to(host.path / "directory")
    names = [os.fsencode(rootfs / "swap" / name) for name in ("a", "link")]
    renameat2 = ctypes.CDLL(None).renameat2

    def exchange() -> None:
        while not stop.is_set():
            renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)

    points = [mount(f"/swap/a/{number}", "tmpfs", "size=4k") for number in range(20)]
    nodes = [
        {"type": "c", "path": f"/swap/a/n{number}", "major": 1, "minor": 5} for number in range(20)
    ]
    box.update(
        mounts=[*box.bundle.spec["mounts"], *points],
        linux={"devices": nodes, "maskedPaths": ["/swap/a"] * 20},
    )
    box.program("true")
    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(15):
            try:
                box.run()
            except ContainerError:
                continue  # something vanished under our hands: refused, and that is all
    finally:
        stop.set()
        thread.join()
