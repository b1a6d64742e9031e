"""criu_rpc against the real CRIU, on a bare process."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from criu_rpc import (
    Criu,
    CriuDied,
    CriuRequestFailed,
    DumpOptions,
    Notification,
    RestoreOptions,
    Script,
)

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_criu]

COUNTER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
count = 0
while True:
    count += 1
    os.pwrite(fd, b"%016d" % count, 0)
    time.sleep(0.002)
"""


class Counter:
    """A process whose memory shows in a file; its pid is ours to kill, restored or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", COUNTER, str(path)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.pid = self._child.pid
        while not path.exists() or self.count() < 5:
            time.sleep(0.01)

    def count(self) -> int:
        return int(self.path.read_bytes() or b"0")

    def grows(self) -> bool:
        before = self.count()
        time.sleep(0.1)
        return self.count() > before

    def ended(self) -> int:
        return self._child.wait(5)

    def sweep(self) -> None:
        self._child.kill()
        self._child.wait()
        # restored, it is our child again, by rst_sibling, but no longer subprocess's
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    process = Counter(tmp_path / "count")
    yield process
    process.sweep()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    return directory


def dump_options(counter: Counter, images: Path) -> DumpOptions:
    return DumpOptions(pid=counter.pid, images_dir=images)


def dumped(counter: Counter, images: Path) -> int:
    """Dump, and tell the count at which it ended."""
    with Criu.start() as criu:
        stats = criu.dump(dump_options(counter, images))
    assert counter.ended() == -signal.SIGKILL
    assert stats.pages_written > 0
    return counter.count()


def test_dump_ends_and_restore_continues(counter: Counter, images: Path) -> None:
    last = dumped(counter, images)
    points: list[str] = []
    with Criu.start() as criu:
        restored = criu.restore(
            RestoreOptions(images_dir=images), lambda notice: points.append(notice.script)
        )
    assert restored.pid == counter.pid
    assert restored.stats.pages_restored > 0
    assert counter.grows()
    assert last < counter.count() < last + 1000
    assert points[0] == Script.PRE_RESTORE
    assert points[-1] == Script.POST_RESUME


def test_a_held_dump_keeps_the_source_frozen_until_refused(counter: Counter, images: Path) -> None:
    def hold(notice: Notification) -> None:
        if notice.script == Script.POST_DUMP:
            assert not counter.grows()
            raise LookupError("no")

    with Criu.start() as criu, pytest.raises(LookupError, match="no") as caught:
        criu.dump(dump_options(counter, images), hold)
    assert caught.value.__notes__[0].startswith("criu dump failed")
    assert counter.grows()


def test_a_dump_held_before_the_freeze_lets_the_source_run(counter: Counter, images: Path) -> None:
    def hold(notice: Notification) -> None:
        if notice.script == Script.PRE_DUMP:
            assert counter.grows()

    with Criu.start() as criu:
        criu.dump(dump_options(counter, images), hold)
    assert counter.ended() == -signal.SIGKILL


def test_a_refused_restore_leaves_no_process(counter: Counter, images: Path) -> None:
    dumped(counter, images)
    pids: list[int] = []

    def refuse(notice: Notification) -> None:
        if notice.script == Script.POST_RESTORE:
            assert notice.pid is not None
            pids.append(notice.pid)
            assert not counter.grows()
            raise LookupError("no")

    with Criu.start() as criu, pytest.raises(LookupError):
        criu.restore(RestoreOptions(images_dir=images), refuse)
    assert os.waitpid(pids[0], 0) == (pids[0], signal.SIGKILL)
    assert not Path(f"/proc/{pids[0]}").exists()


def test_criu_killed_while_held_lets_the_source_run(counter: Counter, images: Path) -> None:
    criu = Criu.start()

    def kill(notice: Notification) -> None:
        if notice.script == Script.POST_DUMP:
            criu.kill()

    with criu, pytest.raises(CriuDied, match="was killed by SIGKILL during dump"):
        criu.dump(dump_options(counter, images), kill)
    assert counter.grows()


def test_an_interrupt_ends_in_a_running_source(counter: Counter, images: Path) -> None:
    def interrupt(notice: Notification) -> None:
        if notice.script == Script.POST_DUMP:
            raise KeyboardInterrupt

    with Criu.start() as criu, pytest.raises(KeyboardInterrupt):
        criu.dump(dump_options(counter, images), interrupt)
    assert counter.grows()


def test_an_unknown_pid_is_a_failure_with_its_cause(images: Path) -> None:
    options = DumpOptions(pid=2**22 - 1, images_dir=images)
    with Criu.start() as criu, pytest.raises(CriuRequestFailed) as caught:
        criu.dump(options)
    assert "No such process" in str(caught.value)
    assert caught.value.log_path == images / "dump.log"


def test_options_that_criu_rejects_are_a_failure(counter: Counter, images: Path) -> None:
    options = DumpOptions(pid=counter.pid, images_dir=images, empty_ns=0x7FFF)
    with Criu.start() as criu, pytest.raises(CriuRequestFailed, match="rejects the request"):
        criu.dump(options)
    assert counter.grows()


def test_a_failure_names_the_option_that_would_help(images: Path) -> None:
    command = ["/bin/sh", "-c", "sleep 1000 & echo $!; wait"]
    # its own session, which the one that is dumped belongs to but does not lead
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as leader:
        child = int(leader.stdout.readline())
        try:
            with Criu.start() as criu, pytest.raises(CriuRequestFailed, match="--shell-job"):
                criu.dump(DumpOptions(pid=child, images_dir=images))
            assert leader.poll() is None
        finally:
            os.killpg(leader.pid, signal.SIGKILL)


def test_damaged_images_are_a_failure(images: Path) -> None:
    (images / "inventory.img").write_bytes(b"nonsense")
    with Criu.start() as criu, pytest.raises(CriuRequestFailed, match="not made by CRIU"):
        criu.restore(RestoreOptions(images_dir=images))


def test_cpuinfo_is_dumped_and_checked(images: Path) -> None:
    with Criu.start() as criu:
        criu.cpuinfo_dump(images)
        criu.cpuinfo_check(images)
        assert criu.version() >= (4, 1)
    assert (images / "cpuinfo.img").stat().st_size > 0


def test_a_launcher_becomes_criu(counter: Counter, images: Path) -> None:
    with Criu.start(launcher=("/usr/bin/env", "MIGRATOR_TEST=1")) as criu:
        criu.version()
        assert b"MIGRATOR_TEST=1" in Path(f"/proc/{criu.pid}/environ").read_bytes()
        criu.dump(dump_options(counter, images))
    assert counter.ended() == -signal.SIGKILL
