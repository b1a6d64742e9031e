"""A container with a user namespace moves, with its memory, its files and whose they are."""

from __future__ import annotations

import pytest

from tests.faults.moves import Move, processes
from tests.lab.churning import NAME, churning
from tests.lab.hosts import NEEDED, TwoHosts
from tests.user_namespaces import SIZE, UIDS, give_user_namespace

pytestmark = NEEDED


@pytest.mark.parametrize(("mode", "moves"), [("hybrid", 2), ("pre-copy", 1), ("post-copy", 1)])
def test_it_is_the_same_there(two_hosts: TwoHosts, mode: str, moves: int) -> None:
    with churning(two_hosts, prepare=give_user_namespace) as churn:
        for _ in range(moves):
            report = churn.migrate("--mode", mode)
            assert (report["outcome"], report["mode"]) == ("migrated", mode)
            init = min(processes(churn.host, r"python3 -I -S /churn.py$"))
            maps = churn.host.run("cat", f"/proc/{init}/uid_map").stdout
            assert maps.split() == ["0", str(UIDS), str(SIZE)]
            status = churn.host.run("cat", f"/proc/{init}/status").stdout
            assert "THP_enabled:\t1\n" in status, "it may have huge pages again"
            said = churn.host.run("migrator", "exec", NAME, "stat", "-c", "%u", "/churn.py").stdout
            assert said == "0\n"


def test_its_pages_may_come_when_it_runs_already(two_hosts: TwoHosts) -> None:
    with churning(two_hosts, "outrunning", prepare=give_user_namespace) as churn:
        report = churn.migrate()
        assert report["mode"] == "hybrid"
        assert report["memory"]["filled"]["pages"] > 1024


def test_who_looks_at_all_processes_does_not_disturb(two_hosts: TwoHosts) -> None:
    """What shows arguments touches memory that nobody waits for yet."""
    there = two_hosts.destination
    look = "until test -e /tmp/seen; do cat /proc/[0-9]*/cmdline; done >/dev/null 2>&1"
    with churning(two_hosts, "idling", prepare=give_user_namespace) as churn:
        with there.popen("sh", "-c", look):
            try:
                churn.migrate("--mode", "hybrid")
            finally:
                there.run("touch", "/tmp/seen")
        there.run("rm", "/tmp/seen")


@pytest.mark.parametrize("mode", ["hybrid", "post-copy"])
@pytest.mark.parametrize("party", ["destination's criu", "destination's agent"])
def test_a_move_that_fails_leaves_it_where_it_was(
    two_hosts: TwoHosts, party: str, mode: str
) -> None:
    with churning(two_hosts, "idling", prepare=give_user_namespace) as churn:
        move = Move(two_hosts, "destination", "held", "--mode", mode, container=NAME)
        move.wait_until_stopped()
        assert move.kill(party)
        move.go_on()
        status, said = move.finish()
        assert status, said
        churn.checks()
