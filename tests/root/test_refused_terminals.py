"""A dump that is refused leaves the terminals inside of a container as they were."""

import json
from pathlib import Path

import pytest

from criu_rpc import Notification, Script
from tests.containers import Box
from tests.migratory import Migratory
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_criu, pytest.mark.needs_busybox]

USR = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
# Both ends of a terminal, as a multiplexer has them, and what waits in each when it is dumped.
PROGRAM = """
import fcntl, json, os, time, tty
ends = os.openpty()
tty.setraw(ends[1])
os.write(ends[1], b"output")
os.write(ends[0], b"input")
open("/tmp/ready", "w").close()
while not os.path.exists("/tmp/go"):
    time.sleep(0.02)
blocking = [not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK for fd in ends]
found = []
for fd in ends:
    os.set_blocking(fd, False)
    try:
        found.append(os.read(fd, 100).decode())
    except BlockingIOError:
        found.append("")
with open("/tmp/new", "w") as file:
    json.dump([blocking, found], file)
os.rename("/tmp/new", "/tmp/found")
time.sleep(1000)
"""


class Refused(Exception):
    pass


def refuse(notification: Notification) -> None:
    if notification.script == Script.POST_DUMP:
        raise Refused


def test_what_waits_in_them_and_how_they_are_read(box: Box, room: Path) -> None:
    rootfs = box.bundle.rootfs
    for name in ("lib", "lib64"):
        (rootfs / name).symlink_to(f"usr/{name}")
    box.update(mounts=[*box.bundle.spec["mounts"], USR])
    box.program("/usr/bin/python3", "-I", "-S", "-c", PROGRAM)
    migratory = Migratory(box, room / "images")
    migratory.container = box.start()
    assert eventually((rootfs / "tmp/ready").exists)
    with pytest.raises(Refused):
        migratory.checkpoint(leave_stopped=True, on_notify=refuse)
    (rootfs / "tmp/go").touch()
    assert eventually((rootfs / "tmp/found").exists)
    blocking, found = json.loads((rootfs / "tmp/found").read_text())
    assert blocking == [True, True]
    assert found == ["output", "input"]
