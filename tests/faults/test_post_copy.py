"""Post-copy: whatever is lost while pages are missing, they arrive, or both sides say where it is.

The container compares all of its memory itself. A narrow link keeps pages missing for long enough.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from migrator.lab.host import Host
from scenarios.asking import ask
from scenarios.by_migrator import ByMigrator
from scenarios.workload import rootfs_on
from scenarios.write_heavy.workload import ScribeWorkload
from tests.faults.moves import SWEEP, eventually, processes, quiet
from tests.lab.hosts import TwoHosts, differences, snapshot

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_criu,
    pytest.mark.needs_sshd,
    pytest.mark.needs_rsync,
    pytest.mark.needs_userfaultfd,
]

MIB = 16
#: bytes a second: 32 MiB of random pages then need six seconds
RATE = "6M"
SERVER = r"runtime\.memory\.lazy\.main"


class Scribe:
    """A container that rewrites its memory and can compare every page, on its way."""

    def __init__(self, hosts: TwoHosts) -> None:
        self.hosts = hosts
        self.workload = ScribeWorkload(mib=MIB, working_mib=4, mb_per_second=1, settle_s=0)
        self.by = ByMigrator()
        self.by.start(hosts.lab, self.workload)
        self.workload.watch(hosts.lab)
        self.process: subprocess.Popen[str] | None = None

    @property
    def name(self) -> str:
        return self.workload.name

    def move(self, *more: str, rate: str = RATE) -> None:
        """Begin; returns when it runs at the destination and pages are missing."""
        self.process = self.hosts.source.popen(
            "migrator", "migrate", "--mode", "post-copy", "--bandwidth", rate, "--json", *more,
            *self.hosts.to_destination[:-1], self.name, self.hosts.to_destination[-1],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        eventually(lambda: self.says("serving"), f"it serves: {self.process.poll()}", 30)

    def says(self, step: str) -> bool:
        """Whether the source's journal has come to *step*."""
        assert self.process is not None
        if self.process.poll() not in (None, -9, 6):
            raise AssertionError(self.process.communicate())
        path = f"/run/migrator/migrations/{self.name}.source.jsonl"
        said = self.hosts.source.run("cat", path, check=False).stdout
        return f'"step":"{step}"' in said

    def finish(self) -> tuple[int, str, str]:
        """Exit status, and what it said."""
        assert self.process is not None
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def settle(self) -> None:
        """Wait until nobody works on the migration any more."""
        for host in (self.hosts.source, self.hosts.destination):
            eventually(lambda host=host: quiet(host), f"all is done on {host.name}", 60)

    def status(self, host: Host) -> str | None:
        return self.by.listed(host).get(self.name)

    def check(self) -> None:
        """It runs at the destination alone, and every page is as it wrote it."""
        assert self.status(self.hosts.source) is None
        assert self.status(self.hosts.destination) == "running"
        seen = json.loads(ask(rootfs_on(self.hosts.destination, self.name), patience_s=30))
        assert seen["wrong"] == []
        assert seen["pages"] == MIB << 8


@pytest.fixture
def scribe(two_hosts: TwoHosts) -> Iterator[Scribe]:
    both = (two_hosts.source, two_hosts.destination)
    for host in both:
        host.run("mkdir", "-p", "/run/migrator/migrations")
        host.run("sh", "-c", "$(migrator --version | sed -n 's/^criu: //p') check", check=False)
    before = [snapshot(host) for host in both]
    scribe = Scribe(two_hosts)
    try:
        yield scribe
        scribe.by.remove(two_hosts.lab, scribe.workload)
        two_hosts.destination.run(
            "rm", "-f", f"/run/migrator/migrations/{scribe.name}.destination.jsonl"
        )
        for host, was in zip(both, before, strict=True):
            left = differences(was, snapshot(host))
            assert not left, "\n".join([f"left behind on {host.name}:", *left])
    finally:
        if scribe.process is not None:
            scribe.process.kill()
        for host in both:
            host.run("sh", "-c", SWEEP.replace("counter", scribe.name), check=False)
        scribe.by.remove(two_hosts.lab, scribe.workload)


def kill(host: Host, pattern: str) -> None:
    """SIGKILL who has a command line like that."""
    victims = [pid for pid, line in processes(host, pattern).items() if "guardian" not in line]
    assert victims, f"nobody is {pattern}"
    for pid in victims:
        host.run("kill", "-KILL", str(pid), check=False)


def test_it_runs_before_its_memory_is_there(scribe: Scribe) -> None:
    scribe.move()
    assert scribe.status(scribe.hosts.destination) == "running"
    assert scribe.status(scribe.hosts.source) == "paused"
    status, out, err = scribe.finish()
    assert (status, err) == (0, "")
    report: dict[str, Any] = json.loads(out)
    assert report["mode"] == "post-copy"
    serve = next(phase for phase in report["phases"] if phase["name"] == "serve")
    assert not serve["frozen"]
    assert report["memory"]["rounds"] == []
    assert report["memory"]["filled"]["pages"] >= MIB << 8
    assert report["downtime_ms"] < serve["duration_ms"]
    scribe.check()
