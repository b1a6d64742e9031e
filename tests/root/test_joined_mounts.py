"""Containers that join a mount namespace: their root is what lies there."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import CheckpointFailed, SetupFailed
from tests.containers import Box, Traces, without_namespace
from tests.migratory import COUNT, Migratory
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

HOLD = "mount -t tmpfs holder $1; cp -a $2/. $1; echo yes > $1/only-there; echo ready; read end"


def join(box: Box, path: str) -> None:
    others = without_namespace(box.bundle.spec, "mount")
    box.update(linux={"namespaces": [*others, {"type": "mount", "path": path}]})


@pytest.fixture
def holder(box: Box, room: Path) -> Iterator[int]:
    """A process with a mount namespace, in which alone the rootfs has a certain file."""
    shutil.copytree(box.bundle.rootfs, room / "copy", symlinks=True)
    command = ["unshare", "--mount", "sh", "-c", HOLD, "sh", box.bundle.rootfs, room / "copy"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    join(box, f"/proc/{process.pid}/ns/mnt")
    yield process.pid
    process.communicate()


def test_its_root_is_what_lies_there(box: Box, holder: int) -> None:
    theirs = os.readlink(f"/proc/{holder}/ns/mnt")
    container = box.start()
    assert os.readlink(f"/proc/{container.state.init_pid}/ns/mnt") == theirs
    roots = "cut -d' ' -f5 /proc/self/mountinfo | grep -cx /"
    outcome = box.exec(container, f"cat /only-there; {roots}")
    assert outcome.out == "yes\n1\n", "the host's root is not there any more"
    container.delete(force=True)
    assert os.readlink(f"/proc/{holder}/ns/mnt") == theirs
    assert not (box.bundle.rootfs / "only-there").exists()


def test_a_create_that_fails_leaves_nothing_mounted_there(
    box: Box, holder: int, traceless: None
) -> None:
    before = Path(f"/proc/{holder}/mounts").read_text()
    nothing = {"destination": "/a", "source": "/none/such", "options": ["bind"]}
    box.update(mounts=[*box.bundle.spec["mounts"], nothing])
    with pytest.raises(SetupFailed, match="/none/such"):
        box.shell("true")
    assert eventually(lambda: Path(f"/proc/{holder}/mounts").read_text() == before)


def test_the_hosts_own_is_refused(box: Box, traceless: None) -> None:
    join(box, "/proc/self/ns/mnt")
    with pytest.raises(SetupFailed, match=r"/proc/self/ns/mnt.*this host's own"):
        box.shell("true")


@pytest.mark.needs_criu
def test_a_checkpoint_is_refused_by_name(migratory: Migratory, holder: int) -> None:
    migratory.start(COUNT)
    with pytest.raises(CheckpointFailed, match=f"joined the mount namespace /proc/{holder}/ns/mnt"):
        migratory.checkpoint()
    migratory.container.delete(force=True)
    assert Traces.now(migratory.box.root).mounts == ()
