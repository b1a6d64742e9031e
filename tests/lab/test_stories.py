"""The stories end as they should: a container moves, nothing is lost, one copy runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from migrator.lab import lab as labs
from scenarios.by_migrator import ByMigrator
from scenarios.idle.workload import IdleWorkload
from scenarios.redis_live.workload import RedisWorkload
from scenarios.workload import Workload, migrate_under_observation
from scenarios.write_heavy.workload import ScribeWorkload
from tests.lab.hosts import TwoHosts, nothing_left_behind

MIGRATOR = Path(sys.prefix, "bin/migrator")

SCRIBE = ScribeWorkload(mib=32, working_mib=8, mb_per_second=20, half_zero=True)

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_criu]


@pytest.mark.parametrize("name", ["idle", "redis-live", "write-heavy"])
def test_the_story_ends_as_expected(name: str) -> None:
    command = [MIGRATOR, "scenario", "run", name, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["problems"] == []
    assert result["copies"] == {"alpha": 0, "beta": 1}
    assert f"story-{name}" not in labs.names()


@pytest.mark.parametrize("workload", [IdleWorkload(), RedisWorkload(fill_mib=4), SCRIBE])
def test_a_migration_leaves_nothing_behind_on_either_host(
    two_hosts: TwoHosts, workload: Workload
) -> None:
    with nothing_left_behind(two_hosts.source, two_hosts.destination):
        outcome = migrate_under_observation(two_hosts.lab, workload, ByMigrator())
    assert outcome.problems == []


def test_an_unknown_story_is_refused_in_one_line() -> None:
    command = [MIGRATOR, "scenario", "run", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "migrator: no story nonsense: there are half-zero, idle, redis-live, write-heavy\n"
    )
