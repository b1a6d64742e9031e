"""What has arrived in vain is there for the next attempt, where that is asked for."""

import json
import signal

import pytest

from tests.faults import moves
from tests.faults.moves import NAME, Move, counting
from tests.lab.hosts import NEEDED, TwoHosts

pytestmark = NEEDED


def test_pages_of_a_failed_attempt_are_not_sent_again(
    two_hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    much = moves.COUNT.replace("n=0; ", "n=0; x=$(seq 1 400000); ", 1)
    monkeypatch.setattr(moves, "COUNT", much)
    with counting(two_hosts) as counter:
        failed = Move(two_hosts, "source", "arm", "--keep-pages")
        failed.wait_until_stopped()
        failed.process.send_signal(signal.SIGCONT)
        two_hosts.source.run("pkill", "-INT", "-f", "migrator migrate", check=False)
        failed.go_on()
        assert failed.finish()[0] != 0
        assert counter.where_it_runs() == "source"
        memory = again(two_hosts)
        assert memory["same_pages"] > 0.8 * (memory["data_pages"] + memory["same_pages"])
        assert counter.where_it_runs() == "destination"
        counter.remove("destination")


def again(hosts: TwoHosts) -> dict:
    done = hosts.source.run(
        "migrator", "migrate", "--json", *hosts.to_destination[:-1], NAME,
        hosts.to_destination[-1],
    )  # fmt: skip
    return json.loads(done.stdout)["memory"]
