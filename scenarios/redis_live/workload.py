"""Redis without persistence, filled, with a client that writes to it all the time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from migrator.lab.host import Host
from migrator.lab.lab import Lab
from scenarios.bundle import Bundle
from scenarios.errors import ScenarioFailed
from scenarios.redis_live import writer
from scenarios.workload import CONTAINER_ADDRESS, Observation

PORT = 6379


class Client:
    """writer.py, running in the client host."""

    def __init__(self, host: Host, *arguments: str) -> None:
        self._host = host
        self._pid_there: int | None = None
        self._process = host.popen(
            "/usr/bin/python3", "-I", "-S", writer.__file__, *arguments,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def next_event(self, expected: str) -> dict[str, Any]:
        """What it says when it is *expected*; ScenarioFailed when it has ended before."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("{"):
            said = (line + self._process.stdout.read()).strip().rpartition("\n")[2]
            raise ScenarioFailed(f"the client ended before it said {expected}: {said}")
        event: dict[str, Any] = json.loads(line)
        self._pid_there = event.get("pid", self._pid_there)
        return event

    def stop(self) -> None:
        """Let it stop writing: it reads everything back and tells its result."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> None:
        """Leave nothing of it behind: with Redis gone it would wait for an answer for minutes."""
        if self._pid_there and self._process.poll() is None:
            self._host.run("kill", "-KILL", str(self._pid_there), check=False)
        with self._process:
            self.stop()


class RedisWorkload:
    """Redis with so many MiB of keys, and one connection to it that writes 1000 times a second."""

    name = "redis"
    marker = "redis-server"

    def __init__(self, fill_mib: int = 64) -> None:
        self.fill_mib = fill_mib
        self.watching = f"filling it with {fill_mib} MiB, then writing 1000 values a second"
        self._client: Client | None = None

    def bundle(self) -> Bundle:
        arguments = f"/bin/redis-server --bind {CONTAINER_ADDRESS} --port {PORT} --dir /tmp"
        return Bundle(
            arguments=[
                *arguments.split(),
                "--save",
                "",
                "--appendonly",
                "no",
                "--protected-mode",
                "no",
            ],
            programs={"/bin/redis-server": find_redis()},
            hostname="redis",
        )

    def watch(self, lab: Lab) -> None:
        """Start the client; returns when it has filled Redis and writes."""
        options = ("--fill-mib", str(self.fill_mib))
        self._client = Client(lab.client, CONTAINER_ADDRESS, str(PORT), *options)
        self._client.next_event("connected")
        self._client.next_event("filled")

    def observed(self, lab: Lab, running_on: Host) -> Observation:
        """Let the client stop, read everything back and tell."""
        assert self._client is not None
        self._client.stop()
        seen = self._client.next_event("result")
        before = seen["silent_after"]
        problems = [f"connection broken: {seen['broken']}"] if seen["broken"] else []
        if seen["lost"]:
            problems.append(f"{len(seen['lost'])} keys lost, {seen['lost'][0]} is the first")
        facts = {
            "acknowledged_before": before,
            "acknowledged_after": seen["acknowledged"] - before,
            "compared": seen["compared"],
            "lost": len(seen["lost"]),
            "connection": "broken" if seen["broken"] else "kept",
        }
        return Observation(seen["silence_ms"], seen["late_ms"], facts, problems)

    def stop_watching(self) -> None:
        if self._client is not None:
            self._client.end()
            self._client = None


def find_redis() -> Path:
    """redis-server: the one that set-up has unpacked, else the system's."""
    unpacked = Path(sys.prefix, "opt/redis/bin/redis-server")
    found = str(unpacked) if unpacked.exists() else shutil.which("redis-server")
    if found is None:
        raise ScenarioFailed("no redis-server: `make setup` unpacks one")
    return Path(found)
