"""Checkpoint and restore of containers with idmapped mounts: whose the files are in there."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runtime import RestoreFailed, SetupFailed
from tests.migratory import Migratory
from tests.user_namespaces import GIDS, UIDS, bind, give_user_namespace, ids

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_criu]

LOOK = "stat -c '%u %g' /m /m/below; touch /m/new; stat -c '%u %g' /m/new; rm /m/new"


def shared(migratory: Migratory, *options: str, **maps: Any) -> Path:
    """A directory of user 5 and group 6, mounted on /m."""
    source = migratory.box.bundle.path / "shared"
    (source / "below").mkdir(parents=True)
    for path in (source, source / "below"):
        os.chown(path, 5, 6)
        path.chmod(0o777)
    mount = bind(source, "/m", *options, **maps)
    migratory.box.update(mounts=[*migratory.box.bundle.spec["mounts"], mount])
    return source


def looks(migratory: Migratory) -> list[str]:
    outcome = migratory.box.exec(migratory.container, LOOK)
    assert outcome.err == ""
    return outcome.out.splitlines()


@pytest.mark.parametrize("user", [False, True])
def test_the_ids_are_mapped_again(migratory: Migratory, user: bool) -> None:
    uid, gid = (UIDS, GIDS) if user else (0, 0)
    if user:
        give_user_namespace(migratory.box.bundle)
    # what root in there writes belongs to 1000 outside
    uids, gids = (
        [ids(uid + 100, 0, 1000), ids(uid, 1000, 1)],
        [ids(gid + 7, 0, 1000), ids(gid, 1000, 1)],
    )
    source = shared(migratory, uidMappings=uids, gidMappings=gids)
    migratory.start()
    before = looks(migratory)
    assert before == ["105 13", "105 13", "0 0"]
    for number in range(2):
        migratory.images = migratory.images.with_name(f"images-{number}")
        migratory.checkpoint()
        migratory.restore()
        assert migratory.counts()
        assert looks(migratory) == before
    assert not (source / "new").exists()


def test_by_the_maps_of_the_container(migratory: Migratory) -> None:
    give_user_namespace(migratory.box.bundle)
    shared(migratory, "bind", "idmap")
    migratory.start()
    before = looks(migratory)
    assert before[0] == "5 6"
    migratory.checkpoint()
    migratory.restore()
    assert looks(migratory) == before


def test_the_mounts_below_are_mapped_again_where_they_were(migratory: Migratory) -> None:
    maps = {"uidMappings": [ids(100, 0, 1000)], "gidMappings": [ids(7, 0, 1000)]}
    source = shared(migratory, "rbind", "ridmap", **maps)
    kind = ["mount", "-t", "tmpfs", "-o", "uid=5,gid=6,mode=777", migratory.box.id]
    subprocess.run([*kind, source / "below"], check=True)
    try:
        migratory.start()
        seen = "stat -c '%u %g' /m /m/below"
        before = migratory.box.exec(migratory.container, seen).out
        assert before == "105 13\n" * 2
        migratory.checkpoint()
        container = migratory.restore()
        assert migratory.box.exec(container, seen).out == before
        container.delete(force=True)
    finally:
        subprocess.run(["umount", source / "below"], check=True)


@pytest.mark.parametrize("options", [("rbind",), ("rbind", "ridmap")])
def test_a_mount_below_is_no_way_out_of_the_source(
    migratory: Migratory, room: Path, options: tuple[str, ...]
) -> None:
    maps = {"uidMappings": [ids(0, 0, 2000)], "gidMappings": [ids(0, 0, 2000)]}
    source = shared(migratory, *options, **(maps if "ridmap" in options else {}))
    subprocess.run(["mount", "-t", "tmpfs", migratory.box.id, source / "below"], check=True)
    try:
        migratory.start().checkpoint()
    finally:
        subprocess.run(["umount", source / "below"], check=True)
    (source / "below").rmdir()
    (source / "below").symlink_to(room)  # others write there too
    with pytest.raises((RestoreFailed, SetupFailed), match=r"shared/below.*symbolic links"):
        migratory.restore()


def test_an_open_file_is_open_again(migratory: Migratory) -> None:
    maps = {"uidMappings": [ids(0, 0, 2000)], "gidMappings": [ids(0, 0, 2000)]}
    source = shared(migratory, **maps)
    script = "exec 3>>/m/log; while :; do echo x >&3; sleep 0.02; done"
    migratory.start(script)
    migratory.checkpoint()
    size = (source / "log").stat().st_size
    migratory.restore()
    outcome = migratory.box.exec(migratory.container, "sleep 0.2; readlink /proc/1/fd/3")
    assert outcome.out == "/m/log\n"
    assert (source / "log").stat().st_size > size


def test_a_source_that_cannot_be_mapped_there_is_named(migratory: Migratory) -> None:
    maps = {"uidMappings": [ids(0, 0, 2000)], "gidMappings": [ids(0, 0, 2000)]}
    shared(migratory, **maps)
    migratory.start().checkpoint()
    spec = migratory.box.bundle.spec
    spec["mounts"][-1]["source"] = "/proc/sys"
    migratory.box.bundle.write(spec)
    with pytest.raises((RestoreFailed, SetupFailed), match=r"/proc/sys.*no idmapped mounts"):
        migratory.restore()
