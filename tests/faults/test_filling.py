"""After the commit the destination's server fills the memory: whoever is lost then, no page is."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.faults.moves import SWEEP, Move, eventually, processes, quiet
from tests.faults.test_lost import cut
from tests.lab.churning import NAME, RUN, churning
from tests.lab.hosts import NEEDED, TwoHosts, make_bundle

pytestmark = NEEDED

#: without its arguments as long as its stack is missing
SLEEPER = r"^(sleep 1000|\[sleep\])$"
PARTS = ("mappings", "forking", "idling")


def servers(hosts: TwoHosts) -> tuple[int, int]:
    """The server, which leads its session, and its twin."""
    lines = hosts.destination.run("ps", "-wweo", "pid=,sid=,args=").stdout.splitlines()
    found = [line.split(None, 2) for line in lines if "runtime.memory.lazy.main" in line]
    server = next(int(pid) for pid, session, _ in found if pid == session)
    twin = next(int(pid) for pid, session, _ in found if int(session) == server != int(pid))
    return server, twin


def send(hosts: TwoHosts, number: signal.Signals, *pids: int) -> None:
    hosts.destination.run("kill", f"-{number.value}", *map(str, pids))


@pytest.mark.parametrize("victim", ["server", "twin"])
def test_a_killed_server_is_taken_over_from(two_hosts: TwoHosts, victim: str) -> None:
    with churning(two_hosts, *PARTS) as churn:
        move = Move(two_hosts, "destination", "run", "--mode", "hybrid", container=NAME)
        move.wait_until_stopped()
        server, twin = servers(two_hosts)
        send(two_hosts, signal.SIGSTOP, server, twin)  # not a page is filled before
        move.go_on()
        eventually(lambda: not processes(two_hosts.source, r"/churn\.py"), "the source ends")
        killed, left = (server, twin) if victim == "server" else (twin, server)
        send(two_hosts, signal.SIGKILL, killed)
        send(two_hosts, signal.SIGCONT, left)
        assert move.finish() == (0, "")
        churn.has_moved()


@pytest.fixture
def sleeper(two_hosts: TwoHosts) -> Iterator[str]:
    """A container that touches nothing for long: what it lacks it would not notice."""
    make_bundle(two_hosts.source, "sleeper", "sleep", "1000")
    network = f"type=veth,name=eth0,bridge={two_hosts.source.bridge},address=10.77.9.9/16"
    two_hosts.source.run("sh", "-c", RUN, "sh", network, "/srv/sleeper", "sleeper")
    yield "sleeper"
    for host in (two_hosts.source, two_hosts.destination):
        host.run("sh", "-c", SWEEP.replace("counter", "sleeper"), check=False)


def test_where_both_servers_are_killed_it_does_not_run_on(
    two_hosts: TwoHosts, sleeper: str
) -> None:
    """The kernel would give it zeros for what was not there yet."""
    move = Move(two_hosts, "destination", "run", "--mode", "hybrid", container=sleeper)
    move.wait_until_stopped()
    send(two_hosts, signal.SIGSTOP, *servers(two_hosts))  # not a page is filled before
    move.go_on()
    eventually(lambda: not processes(two_hosts.source, SLEEPER), "the source ends")
    waiting = processes(two_hosts.destination, SLEEPER)
    assert waiting
    send(two_hosts, signal.SIGSTOP, *waiting)  # lest it ends by itself for what it then reads
    assert move.kill("destination's page servers")
    status, said = move.finish()
    assert (status, "has ended at" in said) == (8, True), said
    assert not processes(two_hosts.destination, SLEEPER)


def test_a_source_that_is_lost_after_the_commit_is_not_missed(two_hosts: TwoHosts) -> None:
    with churning(two_hosts, *PARTS) as churn:
        move = Move(two_hosts, "source", "end source", "--mode", "hybrid", container=NAME)
        move.wait_until_stopped()
        with cut(two_hosts.destination):
            move.kill("source's migrator")
            churn.host, churn.other = churn.other, churn.host
            churn.checks()
        move.go_on()
        move.finish()
        churn.runs_where_it_should()


def test_nothing_is_left_when_the_agent_is_killed_while_it_fills(two_hosts: TwoHosts) -> None:
    with churning(two_hosts, *PARTS) as churn:
        move = Move(two_hosts, "destination", "fill", "--mode", "hybrid", container=NAME)
        move.wait_until_stopped()
        assert move.kill("destination's agent")
        status, said = move.finish()
        assert status == 0, said
        churn.has_moved()
        assert quiet(two_hosts.destination)
