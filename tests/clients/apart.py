"""A place for others' daemons: namespaces and cgroups of their own, and nothing left of them.

Podman, containerd and dockerd make mounts, cgroups and state as they please. Here they do so in a
mount and a network namespace, and below a cgroup of this session that looks to them like the root.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.cgroups.detect import Mount, cgroup_mounts
from runtime.rootfs import mountinfo
from runtime.syscalls import setns
from tests import leftovers, waiting
from tests.bundles import make
from tests.probes import SBIN

MIGRATOR = Path(__file__).parents[2] / ".venv/bin/migrator"
NAMESPACES = ("mnt", "net", "cgroup")
ENVIRONMENT = {"PATH": f"{os.environ.get('PATH', os.defpath)}:{SBIN}", "HOME": "/root"}
CPUSET = ("cpuset.cpus", "cpuset.mems")
WITHIN_S = 30

Done = subprocess.CompletedProcess[str]


def v1_mounts() -> list[Mount]:
    """The mounted v1 hierarchies; on a v2 host, where none is, the clients use the machine's."""
    return list(cgroup_mounts(mountinfo.of_thread("cgroup")))


class Apart:
    """The place, with a directory for the client's own state."""

    def __init__(self, name: str, room: Path) -> None:
        self.room = room
        self._cgroups = [mount.path / name for mount in v1_mounts()]
        for cgroup in self._cgroups:
            cgroup.mkdir()
            for file in CPUSET:
                if (cgroup / file).exists():
                    (cgroup / file).write_text((cgroup.parent / file).read_text())
        self._holder = self._hold()
        self._daemons: list[subprocess.Popen[bytes]] = []

    def _hold(self) -> subprocess.Popen[bytes]:
        """A process that keeps the namespaces."""
        again = [
            f"umount {mount.path}; mount -t cgroup -o {','.join(mount.controllers)} x {mount.path}"
            for mount in v1_mounts()
        ]
        named = [line.replace("-o name=", "-o none,name=") for line in again]
        script = "; ".join(
            [
                "set -e",
                "mount -t tmpfs run /run",
                "ip link set lo up",
                *named,
                "echo ready",
                "exec sleep inf",
            ]
        )
        own = "-mnC" if self._cgroups else "-mn"
        holder = subprocess.Popen(
            ["unshare", own, "sh", "-c", script],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            preexec_fn=self._join,
        )
        assert holder.stdout is not None
        with holder.stdout as said:
            assert said.readline() == b"ready\n"
        return holder

    def _join(self) -> None:
        for cgroup in self._cgroups:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    def _enter(self) -> None:
        self._join()
        for name in NAMESPACES:
            fd = os.open(f"/proc/{self._holder.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            setns(fd, 0)
        os.chdir(self.room)

    def run(self, *argv: str | Path, timeout_s: float = WITHIN_S) -> Done:
        """Run a command in there."""
        return subprocess.run(
            argv,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            preexec_fn=self._enter,
        )

    def daemon(self, *argv: str | Path, ready: Callable[[], bool]) -> None:
        """Start a command in there that stays until the end, and wait until it is *ready*."""
        log = self.room / "daemon.log"
        with log.open("wb") as out:
            daemon = subprocess.Popen(
                argv,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=self._enter,
            )
        self._daemons.append(daemon)
        eventually(ready, lambda: log.read_text())

    def close(self) -> None:
        """End the daemons, gently first, and whatever they have left."""
        for daemon in self._daemons:
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(WITHIN_S)
        for cgroup in self._cgroups:
            leftovers.remove_cgroup(cgroup)
        for process in (*self._daemons, self._holder):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()


def eventually(true: Callable[[], bool], what: Callable[[], str] = lambda: "") -> None:
    """Wait until it is *true*; *what* says more about why it is not."""
    assert waiting.eventually(true, WITHIN_S), what()


@contextmanager
def apart(name: str) -> Iterator[Apart]:
    """The place called *name*, and a rootfs and its archive in its room."""
    own = leftovers.own(name)
    room = Path(tempfile.gettempdir(), own)
    room.mkdir()
    rootfs = make(room / "bundle").rootfs
    subprocess.run(["tar", "-C", rootfs, "-cf", room / "rootfs.tar", "."], check=True)
    place = Apart(own, room)
    try:
        yield place
    finally:
        place.close()
        subprocess.run(["rm", "-rf", room], check=True)
