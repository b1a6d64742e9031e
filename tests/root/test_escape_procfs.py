"""CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: what we mount or write to is not what it seems.

A masked path, /dev/console or a file of /proc is exchanged for another while a container is made.
"""

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime import ContainerError, Terminal
from runtime.constants import AT_FDCWD
from tests.bundles import mount
from tests.containers import Box

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

MIGRATOR = Path(__file__).parents[2] / ".venv/bin/migrator"
RENAME_EXCHANGE = 2


@contextmanager
def exchanged(one: Path, other: Path) -> Iterator[None]:
    """Have *one* and *other* change places as fast as it goes."""
    names, stop = [os.fsencode(path) for path in (one, other)], threading.Event()
    renameat2 = ctypes.CDLL(None).renameat2

    def exchange() -> None:
        while not stop.is_set():
            renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class TestMasked:
    def test_paths_are_masked_by_the_null_device_however_the_images_own_changes(
        self, box: Box
    ) -> None:
        """CVE-2025-31133: the image's /dev/null leads to what root may write to."""
        dev = box.bundle.rootfs / "dev"
        (dev / "null").symlink_to("/proc/sys/kernel/core_pattern")
        (dev / "other").symlink_to("/etc/passwd")
        box.update(
            mounts=[mount("/proc", "proc")],
            linux={"maskedPaths": ["/etc/group"], "readonlyPaths": []},
        )
        box.program("stat", "-c", "%F %t:%T", "/etc/group")
        with exchanged(dev / "null", dev / "other"):
            for _ in range(10):
                assert box.run().out == "character special file 1:3\n"

    def test_what_is_masked_stays_masked_while_it_is_exchanged(self, box: Box) -> None:
        """The path leads here or there; what it does not lead to is out of reach of the mask."""
        rootfs = box.bundle.rootfs
        for name in ("secret", "decoy"):
            (rootfs / name).mkdir()
            (rootfs / name / "file").write_text(name)
        box.update(linux={"maskedPaths": ["/secret"]})
        box.program("sh", "-c", "cat /proc/self/mountinfo")
        with exchanged(rootfs / "secret", rootfs / "decoy"):
            for _ in range(10):
                masked = [line.split()[4] for line in box.run().out.splitlines()]
                assert {"/secret", "/decoy"} & set(masked)

    def test_a_null_device_that_is_none_does_not_become_a_standard_descriptor(
        self, box: Box
    ) -> None:
        (box.bundle.rootfs / "dev/null").symlink_to("/etc/passwd")
        box.update(mounts=[mount("/proc", "proc")])
        assert box.shell("readlink /proc/self/fd/0").out != "/etc/passwd\n"
        assert "x" not in (box.bundle.rootfs / "etc/passwd").read_text().split(":")[0]


class TestConsole:
    @pytest.fixture
    def own_dev(self, box: Box) -> Path:
        """The image's own /dev, as where the spec mounts nothing over it."""
        kept = [each for each in box.bundle.spec["mounts"] if each["destination"] != "/dev"]
        box.update(mounts=kept, process={"terminal": True})
        return box.bundle.rootfs / "dev"

    @pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/etc/passwd", "/proc"])
    def test_nothing_that_a_link_leads_to_is_covered(
        self, box: Box, own_dev: Path, target: str
    ) -> None:
        """CVE-2025-52565: the pty was mounted over what is to be masked or read-only."""
        (own_dev / "console").symlink_to(target)
        with Terminal() as terminal, pytest.raises(ContainerError, match="console"):
            box.create(terminal=terminal)

    def test_nor_while_it_is_exchanged(self, box: Box, own_dev: Path) -> None:
        (own_dev / "console").touch()
        (own_dev / "other").symlink_to("/etc/passwd")
        box.program("sleep", "inf", terminal=True)
        with exchanged(own_dev / "console", own_dev / "other"):
            for number in range(8):
                with Terminal() as terminal:
                    try:
                        container = box.create(str(number), terminal=terminal)
                    except ContainerError:
                        continue
                    table = Path(f"/proc/{container.state.init_pid}/mountinfo").read_text()
                    container.delete(force=True)
                points = [line.split()[4] for line in table.splitlines()]
                assert "/etc/passwd" not in points
                assert {"/dev/console", "/dev/other"} & set(points)


class TestProc:
    @pytest.mark.parametrize("kind", ["tmpfs", "bind"])
    @pytest.mark.parametrize("path", ["/proc", "/proc/self/attr", "/proc/sys", "/proc/1/root"])
    def test_the_proc_filesystem_is_not_covered(self, box: Box, path: str, kind: str) -> None:
        """CVE-2025-52881: labels and parameters are then written to another file."""
        fake = box.bundle.path / "fake"
        fake.mkdir()
        bound = {"destination": path, "type": "bind", "source": str(fake), "options": ["bind"]}
        covering = bound if kind == "bind" else mount(path, "tmpfs")
        box.update(mounts=[mount("/proc", "proc"), covering])
        with pytest.raises(ContainerError, match=r"of the proc filesystem|symbolic|type proc"):
            box.shell("true")

    def test_what_is_no_proc_filesystem_is_not_taken_for_one(self, box: Box) -> None:
        fake = box.bundle.path / "fake"
        fake.mkdir()
        for source, kind in (("fake", "bind"), ("tmpfs", "tmpfs")):
            covering = {"destination": "/proc", "type": kind, "source": source}
            box.update(mounts=[covering])
            with pytest.raises(ContainerError, match="not of type proc"):
                box.shell("true")
        whole = {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]}
        box.update(mounts=[whole], linux={"maskedPaths": [], "readonlyPaths": []})
        assert box.shell("ls /proc/self/exe").status == 0

    def test_what_lies_over_the_hosts_own_is_not_written_to(self, box: Box) -> None:
        """Whoever mounts in our namespace could else have us write anything anywhere."""
        fake = box.bundle.path / "fake/net/ipv4/ip_forward"
        fake.parent.mkdir(parents=True)
        fake.write_text("untouched")
        box.update(linux={"sysctl": {"net.ipv4.ip_forward": "1"}})
        box.program("true")
        script = 'mount --bind "$0" /proc/sys && exec "$@"'
        command = [MIGRATOR, "--root", box.root, "run", "--bundle", box.bundle.path, box.id]
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, box.bundle.path / "fake", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "setting kernel parameters" in done.stderr, done
        assert "cross-device" in done.stderr
        assert fake.read_text() == "untouched"
