"""One container that counts, moved while somebody is killed; and what is true afterwards."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from migrator.lab.host import Host
from tests import waiting
from tests.lab.hosts import TwoHosts, differences, make_bundle, on_machine, snapshot

NAME = "counter"
COUNT = "n=0; while :; do n=$((n+1)); echo $n > /tmp/new; mv /tmp/new /tmp/count; sleep 0.02; done"
SWEEP = f"""
migrator delete --force {NAME}
rm -rf /run/migrator/migrations/{NAME}.* /run/migrator/{NAME} /srv/{NAME} /dev/shm/migrator-images-*
"""
CLEANING = r"guardian|migrator .*resolve|migrator agent|criu|runtime\.(memory|process)\."
STOPPED = re.compile(r"^State:\s+T", re.M)


def eventually(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Wait for it, or fail saying what did not happen."""
    assert waiting.eventually(condition, timeout_s), f"not within {timeout_s:g} s: {what}"


def processes(host: Host, pattern: str) -> dict[int, str]:
    """pid as the host counts -> command line, of those that match; zombies left out."""
    lines = host.run("ps", "-wweo", "pid=,stat=,args=").stdout.splitlines()
    found = (line.split(None, 2) for line in lines)
    return {
        int(pid): args
        for pid, state, args in found
        if re.search(pattern, args) and not state.startswith("Z")
    }


def quiet(host: Host) -> bool:
    """Whether nobody works on a migration; asked twice, for in the moment of its exec(2) a process
    has no command line.
    """
    return not processes(host, CLEANING) and not time.sleep(0.1) and not processes(host, CLEANING)


class Move:
    """A `migrator migrate` on the source that is stopped at one phase, on one side."""

    def __init__(
        self,
        hosts: TwoHosts,
        side: str,
        phase: str,
        *more: str,
        container: str = NAME,
        before: tuple[str, ...] = (),
    ) -> None:
        """more: options; before: a command that becomes the one that follows it."""
        self.hosts, self.side, self.phase = hosts, side, phase
        stop = f"MIGRATOR_STOP_AT={phase}"
        agent = ("--agent", f"env '{stop}' migrator") if side == "destination" else ()
        before = (*before, "env", stop) if side == "source" else before
        self.process = hosts.source.popen(
            *before, "migrator", "migrate", *agent, *more, "--commit-wait", "5",
            *hosts.to_destination[:-1], container, hosts.to_destination[-1],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    @property
    def stopped_on(self) -> Host:
        return self.hosts.source if self.side == "source" else self.hosts.destination

    @property
    def pattern(self) -> str:
        """Of the command line of the process that stops."""
        return r"migrator migrate" if self.side == "source" else r"migrator agent"

    def wait_until_stopped(self) -> None:
        eventually(self.is_stopped, f"{self.side} stops at {self.phase}: {self.process.poll()}")

    def is_stopped(self) -> bool:
        assert self.process.poll() is None, f"it ended: {self.process.communicate()[1]}"
        for pid in processes(self.stopped_on, self.pattern):
            state = self.stopped_on.run("cat", f"/proc/{pid}/status", check=False).stdout
            if STOPPED.search(state):
                return True
        return False

    def kill(self, party: str) -> bool:
        """SIGKILL *party*, or several ("... and ..."), at once; whether each was there."""
        victims = [self._victims(each) for each in party.split(" and ")]
        for number in ("-STOP", "-KILL"):
            for host, pids in victims:
                host.run("kill", number, *map(str, pids), check=False)
        return all(pids for _, pids in victims)

    def _victims(self, party: str) -> tuple[Host, list[int]]:
        side, _, who = party.partition("'s ")
        host = self.hosts.source if side == "source" else self.hosts.destination
        if who == "guardian":
            return host, list(processes(host, "guardian"))
        pattern = {
            "criu": r"(^|/)criu(:| swrk)",
            "migrator": "migrator migrate",
            "agent": "migrator agent",
            "page servers": r"runtime\.memory\.lazy\.main",
        }
        found = processes(host, pattern[who])
        return host, [pid for pid, args in found.items() if "guardian" not in args]

    def go_on(self) -> None:
        for pid in processes(self.stopped_on, self.pattern):
            self.stopped_on.run("kill", "-CONT", str(pid), check=False)
        self.process.send_signal(signal.SIGCONT)  # nsenter(1) stops when its child does

    def finish(self) -> tuple[int, str]:
        """Exit status and what it said, once it and everybody who cleans up after it has ended."""
        said = self.process.communicate(timeout=40)[1]
        for host in (self.hosts.source, self.hosts.destination):
            eventually(lambda host=host: quiet(host), f"nobody cleans up on {host.name} any more")
        return self.process.returncode, said


class Counter:
    """The container, wherever it is."""

    def __init__(self, hosts: TwoHosts, **config: Any) -> None:
        """config: sections of its config.json."""
        self.hosts = hosts
        self.removed = False
        self.bundle = make_bundle(hosts.source, NAME, "sh", "-c", COUNT)
        self.bundle.update(**config)
        network = f"type=veth,name=eth0,bridge={hosts.source.bridge},address=10.77.9.9/16"
        script = 'exec </dev/null >/dev/null 2>&1; exec migrator run -d --network "$1" -b "$2" "$3"'
        hosts.source.run("sh", "-c", script, "sh", network, f"/srv/{NAME}", NAME)
        self.last = self.count(hosts.source)

    def count(self, host: Host) -> int:
        path = on_machine(host, f"/srv/{NAME}") / "rootfs/tmp/count"
        eventually(path.exists, f"{path} is there")
        return int(path.read_text())

    def status(self, host: Host) -> str | None:
        listed = json.loads(host.run("migrator", "list", "-f", "json").stdout) or []
        return next((each["status"] for each in listed if each["id"] == NAME), None)

    def where_it_runs(self) -> str:
        """ "source" or "destination"; fails unless exactly one copy is there and goes on."""
        states = {"source": self.hosts.source, "destination": self.hosts.destination}
        found = {name: self.status(host) for name, host in states.items()}
        alive = [name for name, host in states.items() if processes(host, r"sh -c n=0;")]
        assert sorted(found.values(), key=str) == ["None", "running"] or set(found.values()) == {
            None,
            "running",
        }, found
        runs = next(name for name, state in found.items() if state == "running")
        assert alive == [runs], (alive, found)
        host = states[runs]
        before = self.count(host)
        assert before >= self.last, "it began anew"
        eventually(lambda: self.count(host) > before, f"it goes on counting on the {runs}", 10)
        return runs

    def remove(self, runs: str) -> None:
        """Delete it as a user would, and the files that moved with it."""
        host = getattr(self.hosts, runs)
        host.run("migrator", "delete", "--force", NAME)
        if runs == "destination":
            host.run("rm", "-rf", f"/srv/{NAME}")
            host.run("rm", "-f", f"/run/migrator/migrations/{NAME}.destination.jsonl")
        self.hosts.source.run("rm", "-rf", f"/srv/{NAME}")
        self.removed = True


@contextmanager
def counting(hosts: TwoHosts, **config: Any) -> Iterator[Counter]:
    """A counter on the source; afterwards both hosts must be as they were before."""
    both = (hosts.source, hosts.destination)
    before = [snapshot(host) for host in both]
    clean = False
    try:
        yield (counter := Counter(hosts, **config))
        for host, was in zip(both, before, strict=True):
            left = differences(was, snapshot(host)) if counter.removed else []
            assert not left, "\n".join([f"left behind on {host.name}:", *left])
        clean = counter.removed
    finally:
        for host in () if clean else both:  # for the next test, after one that failed
            host.run("sh", "-c", SWEEP, check=False)
