"""The tmpfs mounts of a container, moved by us where CRIU would have tar do it."""

import os
import subprocess
from pathlib import Path

import pytest

from criu_rpc import Notification, Script
from runtime import CheckpointFailed, RestoreFailed, Status
from runtime.checkpoint.dump import Checkpoint
from runtime.checkpoint.options import CheckpointOptions
from runtime.checkpoint.tmpfs import CONTENT_FILE, MAX_BYTES
from runtime.rootfs import mountinfo
from tests.containers import Traces
from tests.migratory import COUNT, Migratory
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_criu]

# What a container leaves in its tmpfs mounts, an open file that is deleted among it.
MAKE = (
    "echo hello > /run/file; ln /run/file /dev/shm/../../run/other; mkfifo -m 600 /run/fifo; "
    "mkdir -p /dev/shm/deep/er; chmod 2770 /dev/shm/deep; chown 5:6 /dev/shm/deep; "
    "echo kept > /dev/shm/open; exec 5<>/dev/shm/open; rm /dev/shm/open; "
    "dd if=/dev/zero of=/dev/shm/holes bs=1 count=1 seek=99999999 2>/dev/null; "
)
LIST = (
    "for d in /dev /run /dev/shm; do "
    "find $d -xdev -exec stat -c '%n %F %a %u:%g %Y %s %t,%T %N' {} \\;; done; "
    "cat /run/file; grep ^tmpfs /proc/mounts"
)


@pytest.fixture
def made(migratory: Migratory) -> Migratory:
    """It runs, and has filled its mounts."""
    tmpfs = {"type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=100k", "mode=751"]}
    mounts = [*migratory.box.bundle.spec["mounts"], {"destination": "/run", **tmpfs}]
    migratory.box.update(mounts=mounts)
    migratory.start(MAKE + COUNT)
    assert eventually(lambda: migratory.count() > 1)
    return migratory


def look(migratory: Migratory) -> list[str]:
    outcome = migratory.box.exec(migratory.container, LIST)
    assert outcome.status == 0, outcome.err
    # mounted there and made anew; where CRIU makes a deleted file anew
    others = ("/dev/mqueue ", "/dev/pts ", "/dev/shm ")
    return sorted(line for line in outcome.out.splitlines() if not line.startswith(others))


def test_all_is_as_it_was(made: Migratory) -> None:
    before = look(made)
    assert any(line.startswith("/run/fifo fifo 600") for line in before)
    made.checkpoint(own_tmpfs=True)
    assert (made.images / CONTENT_FILE).exists()
    assert not list(made.images.glob("tmpfs-*"))
    container = made.restore()
    assert made.counts()
    assert look(made) == before
    deleted = Path(f"/proc/{container.state.init_pid}/fd/5")
    assert deleted.read_text() == "kept\n"
    assert "(deleted)" in os.readlink(deleted)
    points = {info.point for info in mountinfo.of_process(container.state.init_pid)}
    assert "/run" in points
    made.images = made.images.with_name("again")
    made.checkpoint(own_tmpfs=True)
    made.restore()
    assert look(made) == before


def test_stock_images_have_nothing_of_it(made: Migratory) -> None:
    made.checkpoint()
    assert not (made.images / CONTENT_FILE).exists()
    assert list(made.images.glob("tmpfs-*"))
    made.restore()
    assert made.counts()


def test_what_holds_much_is_left_to_criu(made: Migratory) -> None:
    outcome = made.box.exec(
        made.container, f"dd if=/dev/zero of=/dev/shm/much bs=1M count={(MAX_BYTES >> 20) + 1}"
    )
    assert outcome.status == 0, outcome.err
    made.checkpoint(own_tmpfs=True)
    assert len(list(made.images.glob("tmpfs-*"))) == 1
    assert (made.images / CONTENT_FILE).exists()
    made.restore()
    assert made.box.exec(made.container, "stat -c %s /dev/shm/much").out == f"{17 << 20}\n"


def test_what_is_mounted_anew_under_our_hands_is_a_refusal(made: Migratory) -> None:
    container = made.container
    checkpoint = Checkpoint(container, CheckpointOptions(image_path=made.images, own_tmpfs=True))

    def replace_it(notification: Notification) -> None:
        if notification.script == Script.PRE_DUMP:  # nothing stands still yet
            script = "umount /run && mount -t tmpfs none /run"
            inside = ["nsenter", "-t", str(container.state.init_pid), "-m"]
            subprocess.run([*inside, "sh", "-c", script], check=True)

    with pytest.raises(CheckpointFailed, match=r"tmpfs mounts: /run: it was mounted anew"):
        checkpoint.run(replace_it)
    assert container.status() is Status.RUNNING
    assert made.counts()
    made.checkpoint(own_tmpfs=True)
    made.restore()
    assert made.counts()


def test_no_descriptor_is_left_of_a_dump(made: Migratory) -> None:
    before = os.listdir("/proc/self/fd")
    made.checkpoint(own_tmpfs=True, leave_running=True)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_content_that_is_damaged_is_one_clear_error(made: Migratory) -> None:
    made.checkpoint(own_tmpfs=True)
    (made.images / CONTENT_FILE).write_bytes(b'{"trees": {"/etc": []}}\n')
    before = Traces.now(made.box.root)
    with pytest.raises(RestoreFailed, match=r"tmpfs\.img cannot be used"):
        made.restore()
    assert Traces.now(made.box.root) == before


def test_a_linked_remap_leaves_them_to_criu(made: Migratory) -> None:
    made.checkpoint(own_tmpfs=True, link_remap=True)
    assert not (made.images / CONTENT_FILE).exists()
    made.restore()
    assert made.counts()
