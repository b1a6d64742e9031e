"""Post-copy: whatever is lost while pages are missing, they arrive, or both sides say where it is.

The container compares all of its memory itself. A narrow link keeps pages missing for long enough.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from migrator.lab.host import Host
from scenarios.asking import ask
from scenarios.by_migrator import ByMigrator
from scenarios.workload import rootfs_on
from scenarios.write_heavy.workload import ScribeWorkload
from tests.faults.moves import STOPPED, SWEEP, eventually, processes, quiet
from tests.faults.test_lost import cut
from tests.lab.hosts import TwoHosts, differences, snapshot

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_criu,
    pytest.mark.needs_sshd,
    pytest.mark.needs_rsync,
    pytest.mark.needs_userfaultfd,
]

MIB = 8
#: bytes a second: 24 MiB, with what else it has, then need three seconds
RATE = "8M"
SERVER = r"runtime\.memory\.lazy\.main"


class Scribe:
    """A container that rewrites its memory and can compare every page, on its way."""

    def __init__(self, hosts: TwoHosts) -> None:
        self.hosts = hosts
        self.workload = ScribeWorkload(mib=MIB, working_mib=2, mb_per_second=1, settle_s=0)
        self.by = ByMigrator()
        self.by.start(hosts.lab, self.workload)
        self.workload.watch(hosts.lab)
        self.process: subprocess.Popen[str] | None = None

    @property
    def name(self) -> str:
        return self.workload.name

    def move(self, *more: str, rate: str = RATE) -> None:
        """Begin; returns when it runs at the destination and pages are missing."""
        self.begin(*more, rate=rate)
        eventually(lambda: self.says("serving"), "pages are served", 30)

    def begin(self, *more: str, rate: str = RATE, stop_at: str = "never") -> subprocess.Popen[str]:
        """Start the command; stop_at: the phase at which it stops itself."""
        self.process = self.hosts.source.popen(
            "env", f"MIGRATOR_STOP_AT={stop_at}",
            "migrator", "migrate", "--mode", "post-copy", "--bandwidth", rate, "--json", *more,
            *self.hosts.to_destination[:-1], self.name, self.hosts.to_destination[-1],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        return self.process

    def go_on(self) -> None:
        """Wake up the command that has stopped itself."""
        assert self.process is not None
        for pid in processes(self.hosts.source, "migrator migrate"):
            self.hosts.source.run("kill", "-CONT", str(pid), check=False)
        self.process.send_signal(signal.SIGCONT)  # nsenter(1) stops when its child does

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
            scribe.process.communicate()
        for host in both:
            host.run("sh", "-c", SWEEP.replace("counter", scribe.name), check=False)
        scribe.by.remove(two_hosts.lab, scribe.workload)


def kill(host: Host, pattern: str) -> None:
    """SIGKILL all who have a command line like that, at once."""
    victims = [pid for pid, line in processes(host, pattern).items() if "guardian" not in line]
    assert victims, f"nobody is {pattern}"
    for number in ("-STOP", "-KILL"):
        host.run("kill", number, *map(str, victims), check=False)


def stopped(host: Host, pattern: str) -> bool:
    """Whether such a process has stopped itself."""
    states = [
        host.run("cat", f"/proc/{pid}/status", check=False).stdout
        for pid in processes(host, pattern)
    ]
    return any(STOPPED.search(state) for state in states)


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


def test_a_link_cut_and_restored_while_pages_are_missing(
    two_hosts: TwoHosts, scribe: Scribe
) -> None:
    scribe.move(rate="3M")
    with cut(two_hosts.destination):
        time.sleep(10)  # the agent has given its source up
        assert scribe.status(two_hosts.destination) == "running"
        assert scribe.status(two_hosts.source) == "paused"
        assert scribe.process is not None
        assert scribe.process.poll() is None, "it waits for the link"
    status, _, err = scribe.finish()
    assert (status, err) == (0, "")
    scribe.settle()
    scribe.check()


def test_the_agent_is_killed_while_pages_are_missing(two_hosts: TwoHosts, scribe: Scribe) -> None:
    scribe.move()
    kill(two_hosts.destination, "migrator agent")
    status, _, err = scribe.finish()
    assert (status, err) == (0, "")
    scribe.settle()
    scribe.check()


def test_the_sources_migrator_is_killed_while_pages_are_missing(
    two_hosts: TwoHosts, scribe: Scribe
) -> None:
    scribe.move()
    kill(two_hosts.source, "migrator migrate")
    eventually(lambda: scribe.status(two_hosts.source) is None, "its guardian serves the rest")
    scribe.settle()
    scribe.check()


@pytest.mark.parametrize("phase", ["commit", "end source"])
def test_the_sources_migrator_is_killed_at_the_borders_of_serving(
    two_hosts: TwoHosts, scribe: Scribe, phase: str
) -> None:
    move = scribe.begin(stop_at=phase, rate="30M")
    eventually(lambda: stopped(two_hosts.source, "migrator migrate"), f"it stops at {phase}")
    kill(two_hosts.source, "migrator migrate")
    scribe.go_on()
    move.wait(10)
    scribe.settle()
    if phase == "commit":  # it was not written: nothing has happened
        assert scribe.status(two_hosts.source) == "running"
        assert scribe.status(two_hosts.destination) is None
    else:
        scribe.check()


@pytest.mark.parametrize(
    ("phase", "victim"), [("send images", "migrator agent"), ("fence", SERVER)]
)
def test_before_the_commit_everything_is_undone(
    two_hosts: TwoHosts, scribe: Scribe, phase: str, victim: str
) -> None:
    scribe.begin(stop_at=phase)
    eventually(lambda: stopped(two_hosts.source, "migrator migrate"), f"it stops at {phase}")
    kill(two_hosts.destination, victim)
    time.sleep(0.5)  # its stream ends
    scribe.go_on()
    status, _, err = scribe.finish()
    assert (status, "it runs on here as before" in err) == (5, True), err
    scribe.settle()
    assert scribe.status(two_hosts.source) == "running"
    assert scribe.status(two_hosts.destination) is None
    assert json.loads(ask(rootfs_on(two_hosts.source, scribe.name), patience_s=30))["wrong"] == []


@pytest.mark.parametrize(("mode", "phase"), [("hybrid", "last pages"), ("post-copy", "restore")])
@pytest.mark.parametrize("number", ["KILL", "INT"])
def test_a_restore_that_waits_for_a_page_ends_with_its_source(
    two_hosts: TwoHosts, scribe: Scribe, mode: str, phase: str, number: str
) -> None:
    """The kernel writes to a page of each restored thread before the restore is done."""
    move = scribe.begin("--mode", mode, stop_at=phase)
    eventually(lambda: stopped(two_hosts.source, "migrator migrate"), f"it stops at {phase}")
    time.sleep(0.5)  # the restore has come to that page
    for pid in processes(two_hosts.source, "migrator migrate"):
        two_hosts.source.run("kill", f"-{number}", str(pid), check=False)
    scribe.go_on()
    move.wait(20)
    scribe.settle()
    assert scribe.status(two_hosts.source) == "running"
    assert scribe.status(two_hosts.destination) is None
    assert json.loads(ask(rootfs_on(two_hosts.source, scribe.name), patience_s=30))["wrong"] == []


def test_the_agent_is_killed_before_it_says_that_it_runs(
    two_hosts: TwoHosts, scribe: Scribe
) -> None:
    scribe.begin("--agent", "env MIGRATOR_STOP_AT=running migrator")
    eventually(lambda: stopped(two_hosts.destination, "migrator agent"), "the agent stops")
    kill(two_hosts.destination, "migrator agent")
    status, _, err = scribe.finish()
    assert status == 0, err
    scribe.settle()
    scribe.check()


def test_an_interrupt_leaves_the_rest_to_the_guardian(two_hosts: TwoHosts, scribe: Scribe) -> None:
    scribe.move()
    for pid in processes(two_hosts.source, "migrator migrate"):
        two_hosts.source.run("kill", "-INT", str(pid))
    status, _, err = scribe.finish()
    assert (status, "lacks pages, which are frozen here (interrupted)" in err) == (6, True), err
    eventually(lambda: scribe.status(two_hosts.source) is None, "its guardian serves the rest")
    scribe.settle()
    scribe.check()


def test_a_server_that_is_killed_has_a_successor(two_hosts: TwoHosts, scribe: Scribe) -> None:
    scribe.move()
    for _ in range(2):
        server = min(processes(two_hosts.destination, SERVER))
        two_hosts.destination.run("kill", "-KILL", str(server))
        eventually(
            lambda server=server: (
                len(processes(two_hosts.destination, SERVER).keys() - {server}) == 2
            ),
            "it has a twin again",
        )
    status, _, err = scribe.finish()
    assert (status, err) == (0, "")
    scribe.check()


def test_without_any_server_it_is_ended_and_its_source_stays(
    two_hosts: TwoHosts, scribe: Scribe
) -> None:
    scribe.move()
    kill(two_hosts.destination, SERVER)
    status, _, err = scribe.finish()
    assert (status, "both processes that waited for its pages were killed" in err) == (8, True), err
    goes_on_at_the_source(scribe)


def test_pages_that_stay_away_for_too_long(two_hosts: TwoHosts, scribe: Scribe) -> None:
    scribe.move("--give-up-after", "3s", rate="3M")
    with cut(two_hosts.destination):
        gone = lambda: scribe.status(two_hosts.destination) == "stopped"  # noqa: E731
        eventually(gone, "it is ended", 30)
        assert scribe.status(two_hosts.source) == "paused"
    status, _, err = scribe.finish()
    assert (status, "the source was not heard of" in err) == (8, True), err
    goes_on_at_the_source(scribe)


def test_memory_that_is_gone_at_the_source_is_waited_for_no_longer(
    two_hosts: TwoHosts, scribe: Scribe
) -> None:
    scribe.move(rate="3M")
    cgroup = f"/sys/fs/cgroup/freezer/migrator/{scribe.name}"
    killing = "kill -KILL $(cat $0/cgroup.procs); echo THAWED > $0/freezer.state"
    two_hosts.source.run("sh", "-c", killing, cgroup)
    status, _, err = scribe.finish()
    assert (status, "is gone, though it was frozen" in err) == (8, True), err
    scribe.settle()
    assert scribe.status(two_hosts.destination) == "stopped"
    again = two_hosts.source.run("migrator", "resolve", scribe.name, check=False)
    assert (again.returncode, "is gone, though it was frozen" in again.stderr) == (8, True)
    two_hosts.source.run("migrator", "delete", "--force", scribe.name)
    resolved = two_hosts.source.run("migrator", "resolve", "--json", scribe.name)
    assert json.loads(resolved.stdout)["runs"] == "nowhere"


def goes_on_at_the_source(scribe: Scribe) -> None:
    """Where a copy was lost, the source is resumed by force alone, as it was at the freeze."""
    source, destination = scribe.hosts.source, scribe.hosts.destination
    scribe.settle()
    assert scribe.status(source) == "paused"
    again = source.run("migrator", "resolve", scribe.name, check=False)
    assert (again.returncode, "has ended at" in again.stderr) == (8, True)
    assert scribe.status(source) == "paused"
    source.run("migrator", "resolve", "--force-source", scribe.name)
    assert scribe.status(source) == "running"
    assert json.loads(ask(rootfs_on(source, scribe.name), patience_s=30))["wrong"] == []
    assert scribe.status(destination) == "stopped"
