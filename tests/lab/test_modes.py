"""Memory moves in every mode, whatever is done to it: its processes compare every page."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.faults.moves import Move, processes
from tests.lab.churning import NAME, Churn, churning
from tests.lab.hosts import NEEDED, TwoHosts

pytestmark = NEEDED

MODES = ("hybrid", "pre-copy", "post-copy", "cold")
PAGE = 4096
QUOTA = 150_000
# Attached, it says so; it lets go when its standard input ends. ptrace(2): PTRACE_SEIZE
TRACER = """
import ctypes, sys
assert ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None) == 0
print("attached", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("mode", MODES)
def test_every_page_is_right_there(two_hosts: TwoHosts, mode: str) -> None:
    """And back again, where both ways differ: what has come by pages goes by pages."""
    with churning(two_hosts) as churn:
        for _ in range(2 if mode == "hybrid" else 1):
            report = churn.migrate("--mode", mode)
            assert (report["outcome"], report["mode"]) == ("migrated", mode)


def test_the_report_tells_of_the_memory(two_hosts: TwoHosts) -> None:
    with churning(two_hosts, "outrunning") as churn:
        report = churn.migrate("--compress", "none")
        assert report["mode"] == "hybrid"
        memory = report["memory"]
        assert memory["tracker"] == "userfaultfd"
        assert 0 < memory["stop_us"] < 1e6
        first, *more = memory["rounds"]
        assert [each["number"] for each in memory["rounds"]] == list(range(1, len(more) + 2))
        assert first["pages"] > 2048 > max(each["pages"] for each in more)
        assert all(each["seconds"] > 0 and each["why"] for each in memory["rounds"])
        assert memory["zero_pages"] >= 1024, "half of its pages, by name"
        assert memory["data_pages"] * PAGE < memory["bytes"] < (memory["data_pages"] + 1000) * PAGE
        assert memory["filled"]["pages"] > 1024
        assert report["bytes"] == report["image_bytes"] + report["rootfs_bytes"] + memory["bytes"]
        back = churn.migrate("--mode", "cold")
        assert (back["mode"], back["memory"]) == ("cold", None)
        assert back["image_bytes"] > report["image_bytes"] + 1024 * PAGE


def test_options_of_the_copy_rounds(two_hosts: TwoHosts) -> None:
    with churning(two_hosts, "idling") as churn:
        slow = memory_of(churn, "--compress", "none", "--bandwidth", "16M", "--max-rounds", "1")
        assert len(slow["rounds"]) == 1
        assert slow["bytes"] / slow["rounds"][0]["seconds"] < 1.5 * (16 << 20)
        zstd = memory_of(churn, "--compress", "zstd", "--downtime", "1min")
        assert zstd["rounds"][-1]["why"].startswith("converged")
        assert zstd["bytes"] < slow["bytes"] / 2
        few = ("--compress", "lz4", "--max-time", "1ms", "--downtime", "1ms")
        said = churn.say_migrate("--plot", *few)
        assert all(word in said for word in ("round 1:", "stopped after", "tracked by", "filled:"))
        assert all(f"\n{row}" in said for row in ("dump ", "restore ", "commit ", "total "))


def memory_of(churn: Churn, *options: str) -> dict[str, Any]:
    """The report of a move with these options, as far as it tells of the memory."""
    memory: dict[str, Any] = churn.migrate(*options)["memory"]
    return memory


SLOW_LINK = ("--bandwidth", "8M", "--compress", "none", "--converge", "--downtime", "100ms")


@contextmanager
def outrunning(hosts: TwoHosts) -> Iterator[Churn]:
    """It may use one and a half CPUs, and writes more than a slow link carries."""
    cpu = {"cpu": {"quota": QUOTA, "period": 100_000}}
    with churning(hosts, "outrunning", linux={"resources": cpu}) as churn:
        assert quota(churn) == QUOTA
        yield churn


def quota(churn: Churn) -> int:
    """Of CPU time, us in each period; -1: no limit."""
    return int(churn.cgroup("cpu.cfs_quota_us"))


def test_a_slowed_container_is_not_slow_where_it_has_moved(two_hosts: TwoHosts) -> None:
    with outrunning(two_hosts) as churn:
        report = churn.migrate(*SLOW_LINK)
        assert len(report["memory"]["rounds"]) > 2
        assert quota(churn) == QUOTA


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_slowed_container_is_not_slow_where_it_stays(
    two_hosts: TwoHosts, number: signal.Signals
) -> None:
    with outrunning(two_hosts) as churn:
        move = Move(two_hosts, "source", "arm", *SLOW_LINK, container=NAME)
        move.wait_until_stopped()
        assert quota(churn) < QUOTA / 2
        for pid in processes(two_hosts.source, "migrator migrate"):
            two_hosts.source.run("kill", f"-{number.value}", str(pid))
        move.go_on()
        status, said = move.finish()
        assert status, said
        churn.checks()
        assert quota(churn) == QUOTA


def test_a_process_with_a_debugger_is_refused_by_name(two_hosts: TwoHosts) -> None:
    with churning(two_hosts, "idling") as churn:
        pid = max(processes(two_hosts.source, r"/churn\.py idling"))
        with attached(two_hosts, pid) as tracer:
            done = two_hosts.source.run(
                "migrator", "migrate", *two_hosts.to_destination[:-1], NAME,
                two_hosts.to_destination[-1], check=False,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (3, ""), done.stderr
            assert f"process {pid} is traced by process {tracer}" in done.stderr
            assert len(done.stderr.splitlines()) == 1
        churn.checks()


@contextmanager
def attached(hosts: TwoHosts, pid: int) -> Iterator[int]:
    """A debugger of *pid* on the source; its own pid."""
    python = ("/usr/bin/python3", "-I", "-c", TRACER, str(pid))
    tracer = hosts.source.popen(*python, stdin=-1, stdout=-1)
    assert tracer.stdin
    assert tracer.stdout
    assert tracer.stdout.readline() == "attached\n"
    try:
        yield max(processes(hosts.source, "print..attached"))
    finally:
        tracer.communicate()
