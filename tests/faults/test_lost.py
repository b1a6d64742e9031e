"""A link cut, a disk that fills up, an interrupt: one copy runs, and the rest can be resolved."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from migrator.lab.host import Host
from tests.faults.moves import (
    CLEANING,
    NAME,
    Counter,
    Move,
    counting,
    eventually,
    processes,
    quiet,
)
from tests.lab.hosts import NEEDED, TwoHosts

pytestmark = NEEDED

UPLINK = "mig-up"


@pytest.fixture
def counter(two_hosts: TwoHosts) -> Iterator[Counter]:
    with counting(two_hosts) as counter:
        yield counter


@contextmanager
def cut(host: Host) -> Iterator[None]:
    """Nothing reaches the host or leaves it."""
    host.run("ip", "link", "set", UPLINK, "down")
    try:
        yield
    finally:
        host.run("ip", "link", "set", UPLINK, "up")


def settled(hosts: TwoHosts) -> None:
    """The destination's agent has noticed too."""
    eventually(lambda: not processes(hosts.destination, CLEANING), "the agent gives up", 40)


@pytest.mark.parametrize(
    ("side", "phase"), [("source", "arm"), ("source", "send images"), ("destination", "held")]
)
def test_a_link_cut_before_the_commit_leaves_it_on_the_source(
    two_hosts: TwoHosts, counter: Counter, side: str, phase: str
) -> None:
    move = Move(two_hosts, side, phase)
    move.wait_until_stopped()
    with cut(two_hosts.destination):
        move.go_on()
        said = move.process.communicate(timeout=60)[1]
        assert move.process.returncode == 5, said
        assert "it runs on here as before" in said
        settled(two_hosts)
    assert counter.where_it_runs() == "source"
    counter.remove("source")


@pytest.mark.parametrize(
    ("side", "phase", "outcome"),
    [("source", "commit", "source"), ("destination", "running", "destination")],
)
def test_a_link_cut_around_the_commit_is_resolved_when_it_is_back(
    two_hosts: TwoHosts, counter: Counter, side: str, phase: str, outcome: str
) -> None:
    move = Move(two_hosts, side, phase)
    move.wait_until_stopped()
    with cut(two_hosts.destination):
        move.go_on()
        said = move.process.communicate(timeout=60)[1]
        assert move.process.returncode == 6, said
        assert f"at once with: migrator resolve {NAME}" in said
        assert counter.status(two_hosts.source) == "paused"
        again = two_hosts.source.run("migrator", "resolve", NAME, check=False)
        assert again.returncode == 6, "it cannot be known as long as the link is cut"
        for verb in (["resume"], ["checkpoint", "--image-path", "/tmp/second"]):
            tried = two_hosts.source.run("migrator", *verb, NAME, check=False)
            assert (tried.returncode, "a migration holds" in tried.stderr) == (1, True)
        assert counter.status(two_hosts.source) == "paused"
        settled(two_hosts)
    eventually(lambda: quiet(two_hosts.source), "its guardian asks on")
    assert counter.where_it_runs() == outcome
    counter.remove(outcome)
    nothing = two_hosts.source.run("migrator", "resolve", NAME, check=False)
    assert (nothing.returncode, "no migration" in nothing.stderr) == (1, True)


@pytest.mark.parametrize(
    ("phase", "outcome", "runs"),
    [("restore", "source", "here"), ("end source", "destination", "there")],
)
def test_without_its_guardian_it_waits_for_the_operator(
    two_hosts: TwoHosts, counter: Counter, phase: str, outcome: str, runs: str
) -> None:
    move = Move(two_hosts, "source", phase)
    move.wait_until_stopped()
    assert move.kill("source's migrator and source's guardian")
    move.go_on()
    move.finish()
    assert counter.status(two_hosts.source) == "paused"
    resolved = two_hosts.source.run("migrator", "resolve", "--json", NAME)
    assert json.loads(resolved.stdout)["runs"] == runs
    assert counter.where_it_runs() == outcome
    counter.remove(outcome)


def test_a_destination_that_has_lost_its_records_is_not_believed(
    two_hosts: TwoHosts, counter: Counter
) -> None:
    """As by `rm -r /run/migrator`: to know nothing of a container does not mean that none runs."""
    there, records = two_hosts.destination, "/run/migrator/migrations"
    move = Move(two_hosts, "destination", "running")
    move.wait_until_stopped()
    assert move.kill("source's migrator and source's guardian and destination's agent")
    there.run("mv", records, "/run/lost")
    asked = two_hosts.source.run("migrator", "resolve", NAME, check=False)
    assert (asked.returncode, "has lost its records" in asked.stderr) == (6, True), asked
    assert counter.status(two_hosts.source) == "paused"
    there.run("sh", "-c", f"rm -r {records}; mv /run/lost {records}")
    move.go_on()
    move.finish()
    resolved = two_hosts.source.run("migrator", "resolve", "--json", NAME)
    assert json.loads(resolved.stdout)["runs"] == "there"
    assert counter.where_it_runs() == "destination"
    counter.remove("destination")


def test_a_service_that_is_stopped_whole_leaves_its_guardian(
    two_hosts: TwoHosts, counter: Counter
) -> None:
    """systemd.kill(5), KillMode=control-group: whatever is in the cgroup is killed together."""
    source = two_hosts.source
    service = "/sys/fs/cgroup/pids/mig-test-service"
    source.run("mkdir", service)
    move = Move(
        two_hosts, "source", "restore",
        before=("sh", "-c", f'echo $$ > {service}/cgroup.procs; exec "$@"', "service"),
    )  # fmt: skip
    move.wait_until_stopped()
    source.run("sh", "-c", f"kill -KILL $(cat {service}/cgroup.procs)")
    move.go_on()
    move.finish()
    source.run("rmdir", service)
    assert counter.where_it_runs() == "source"
    counter.remove("source")


def test_a_disk_that_fills_up_on_the_way(two_hosts: TwoHosts, counter: Counter) -> None:
    there = two_hosts.destination
    there.run("sh", "-c", "mkdir /srv/small; mount -t tmpfs -o size=100m small /srv/small")
    move = Move(two_hosts, "source", "sync rootfs", "--bundle", "/srv/small/counter")
    move.wait_until_stopped()
    there.run("sh", "-c", "cat /dev/zero > /srv/small/filler", check=False)
    move.go_on()
    status, said = move.finish()
    there.run("sh", "-c", "umount /srv/small; rmdir /srv/small /run/mount")
    assert (status, "is its disk full?" in said) == (5, True), said
    assert counter.where_it_runs() == "source"
    counter.remove("source")


@pytest.mark.parametrize(("side", "phase"), [("source", "commit"), ("destination", "run")])
def test_a_full_disk_under_the_journal_changes_nothing_once_it_has_begun(
    two_hosts: TwoHosts, counter: Counter, side: str, phase: str
) -> None:
    """What it has still to say fits into the page that it has."""
    host, journals = getattr(two_hosts, side), "/run/migrator/migrations"
    host.run("sh", "-c", f"mkdir -p {journals}; mount -t tmpfs -o size=64k small {journals}")
    move = Move(two_hosts, side, phase)
    move.wait_until_stopped()
    host.run("sh", "-c", f"cat /dev/zero > {journals}/filler", check=False)
    move.go_on()
    status, said = move.finish()
    host.run("sh", "-c", f"umount {journals}; rmdir /run/mount")
    assert (status, said) == (0, "")
    assert counter.where_it_runs() == "destination"
    counter.remove("destination")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["sync rootfs", "send images", "restore"])
def test_an_interrupt_undoes_everything(
    two_hosts: TwoHosts, counter: Counter, phase: str, number: signal.Signals
) -> None:
    move = Move(two_hosts, "source", phase)
    move.wait_until_stopped()
    for pid in processes(two_hosts.source, "migrator migrate"):
        two_hosts.source.run("kill", f"-{number.value}", str(pid))
    move.go_on()
    status, said = move.finish()
    assert (status, said) == (130, f"migrator: interrupted; {NAME} runs on here as before\n")
    assert counter.where_it_runs() == "source"
    counter.remove("source")


def test_after_the_commit_an_interrupt_waits_for_the_end(
    two_hosts: TwoHosts, counter: Counter
) -> None:
    move = Move(two_hosts, "source", "commit")
    move.wait_until_stopped()
    for pid in processes(two_hosts.source, "migrator migrate"):
        two_hosts.source.run("kill", "-INT", str(pid))
    move.go_on()
    status, said = move.finish()
    assert (status, said) == (0, "")
    assert counter.where_it_runs() == "destination"
    counter.remove("destination")
