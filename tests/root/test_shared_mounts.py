"""Checkpoint and restore where the host's mounts are shared, as systemd makes them: what is mounted
there later shows up in the containers that asked for it, before and after.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime import CheckpointFailed
from runtime.rootfs import mountinfo
from tests.migratory import Migratory
from tests.shared_mounts import make_private, shared_mounts
from tests.user_namespaces import GIDS, UIDS, bind, give_user_namespace, ids

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_criu]

MAPS = {"uidMappings": [ids(0, 0, 2000)], "gidMappings": [ids(0, 0, 2000)]}
CAPABILITY_SETS = ("bounding", "effective", "permitted")
MAPS_IN_USER = {"uidMappings": [ids(UIDS)], "gidMappings": [ids(GIDS)]}


@pytest.fixture(params=[False, True], ids=["ordinary", "user-namespace"])
def user(request: pytest.FixtureRequest) -> bool:
    """Whether the container has a user namespace of its own."""
    given: bool = request.param
    return given


@pytest.fixture
def host() -> Iterator[None]:
    with shared_mounts():
        yield


@pytest.fixture
def moving(host: None, migratory: Migratory, user: bool) -> Migratory:
    if user:
        give_user_namespace(migratory.box.bundle)
    return migratory


def source(moving: Migratory, name: str = "source") -> Path:
    """A directory of the host, with one in it."""
    path = moving.box.bundle.path / name
    (path / "below").mkdir(parents=True)
    return path


def give(moving: Migratory, *mounts: dict[str, Any]) -> None:
    moving.box.update(mounts=[*moving.box.bundle.spec["mounts"], *mounts])


@contextmanager
def mounted_later(path: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "mig-later", path], check=True)
    try:
        (path / "later").touch()
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def comes(moving: Migratory, path: Path, inside: str) -> bool:
    """Whether what is mounted on *path* of the host shows up in the container, and goes again."""
    with mounted_later(path):
        shown = moving.box.exec(moving.container, f"ls {inside}").out
    assert moving.box.exec(moving.container, f"ls {inside}").out == ""
    assert shown in ("", "later\n")
    return bool(shown)


def moves(moving: Migratory, number: int = 0) -> None:
    moving.images = moving.images.with_name(f"images-{number}")
    moving.checkpoint()
    moving.restore()
    assert moving.counts()


def test_a_container_with_devices_of_the_host(moving: Migratory) -> None:
    moving.start()
    for number in range(2):
        moves(moving, number)
    table = mountinfo.of_process(moving.container.state.init_pid)
    assert {info.propagation for info in table} == {()}
    assert moving.box.exec(moving.container, "echo x > /dev/null; head -c 1 /dev/zero").err == ""


@pytest.mark.parametrize(
    ("option", "comes_later"),
    [("", False), ("rprivate", False), ("rslave", True), ("rshared", True)],
)
def test_a_bind_mount(moving: Migratory, option: str, comes_later: bool) -> None:
    path = source(moving)
    give(moving, bind(path, "/m", "rbind", *filter(None, [option])))
    moving.start()
    assert comes(moving, path / "below", "/m/below") == comes_later
    for number in range(2):
        moves(moving, number)
        assert comes(moving, path / "below", "/m/below") == comes_later


@pytest.mark.parametrize(("option", "comes_later"), [("rprivate", False), ("rslave", True)])
def test_an_idmapped_mount(moving: Migratory, user: bool, option: str, comes_later: bool) -> None:
    path = source(moving)
    maps = MAPS_IN_USER if user else MAPS
    give(moving, bind(path, "/m", "rbind", option, **maps))
    moving.start()
    for number in range(2):
        moves(moving, number)
        assert comes(moving, path / "below", "/m/below") == comes_later


@pytest.mark.parametrize("propagation", ["private", "rslave", "slave", "shared", "rshared"])
def test_the_root(moving: Migratory, propagation: str) -> None:
    path = source(moving)
    below = moving.box.bundle.rootfs / "below"
    below.mkdir()
    give(moving, bind(path, "/m", "rbind"))
    moving.box.update(linux={"rootfsPropagation": propagation})
    moving.start()
    for number in range(2):
        before = comes(moving, below, "/below")
        assert before == (propagation in ("slave", "rslave"))
        moves(moving, number)
        assert comes(moving, below, "/below") == before


def test_what_was_mounted_meanwhile_comes_along(moving: Migratory) -> None:
    path = source(moving)
    give(moving, bind(path, "/m", "bind", "rslave"))
    moving.start()
    with mounted_later(path / "below"):
        moves(moving)
        assert moving.box.exec(moving.container, "ls /m/below").out == "later\n"
    assert moving.box.exec(moving.container, "ls /m/below").out == ""


def test_on_a_host_whose_mounts_are_private(moving: Migratory) -> None:
    path = source(moving)
    give(moving, bind(path, "/m", "rbind", "rslave"))
    moving.start().checkpoint()
    make_private()
    moving.restore()
    assert moving.counts()
    assert not comes(moving, path / "below", "/m/below")


def test_two_of_one_mount_of_the_host(moving: Migratory, user: bool) -> None:
    """CRIU can have both be slaves again only where it is given their paths."""
    first, second = source(moving, "first"), source(moving, "second")
    give(moving, bind(first, "/a", "rbind", "rslave"), bind(second, "/b", "rbind", "rslave"))
    moving.start()
    if user:
        with pytest.raises(CheckpointFailed, match=r"both /a and /b receive .* rprivate"):
            moving.checkpoint()
        assert moving.counts()
        return
    moves(moving)
    assert comes(moving, first / "below", "/a/below")
    assert comes(moving, second / "below", "/b/below")


@pytest.mark.parametrize("kind", ["bind", "rbind"])
def test_a_peer_of_the_hosts(host: None, migratory: Migratory, kind: str) -> None:
    """Both ways, where the root is shared too; with a user namespace the kernel has no such."""
    top = migratory.box.bundle.path / "top"
    top.mkdir()
    with mounted_later(top):
        path = source(migratory, "top/source")
        with mounted_later(path / "below"):
            (path / "below/deep").mkdir()
            may_mount = {name: ["CAP_SYS_ADMIN", "CAP_KILL"] for name in CAPABILITY_SETS}
            give(migratory, bind(path, "/m", kind, "rshared"))
            shared = {"rootfsPropagation": "rshared"}
            migratory.box.update(linux=shared, process={"capabilities": may_mount})
            migratory.start()
            places = ["", "below/deep"] if kind == "rbind" else [""]
            for number in range(3):
                for place in places:
                    assert is_peer(migratory, path / place, f"/m/{place}")
                if number < 2:
                    moves(migratory, number)
            migratory.container.delete(force=True)


def is_peer(migratory: Migratory, path: Path, inside: str) -> bool:
    """Whether what either mounts shows up with the other."""
    (path / "new").mkdir()
    there = f"{inside}/new"
    assert comes(migratory, path / "new", there)
    make = f"mount -t tmpfs mig-new {there} && touch {there}/file"
    assert migratory.box.exec(migratory.container, make).err == ""
    shown = (path / "new/file").exists()
    assert migratory.box.exec(migratory.container, f"umount {there}").err == ""
    (path / "new").rmdir()
    return shown
