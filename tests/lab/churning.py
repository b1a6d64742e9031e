"""A container that runs churn.py, wherever it is: started, moved, and asked what it has found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from migrator.lab.host import Host
from tests.bundles import Bundle
from tests.faults.moves import eventually
from tests.lab import churn
from tests.lab.hosts import TwoHosts, differences, make_bundle, on_machine, snapshot

NAME = "churn"
#: what tells of itself: one process or thread each
PARTS = (
    *("mappings", "forking", "staying", "staying-other", "executing", "shared", "shared-other"),
    *("threads", "threads-0", "threads-1", "threads-2"),
)
USR = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
# The records of how a migration ended stay where its source may still ask.
SWEEP = f"""
migrator delete --force {NAME}
rm -rf /srv/{NAME} /run/migrator/migrations/{NAME}.*
"""
RUN = """
exec </dev/null >/dev/null 2>&1
exec migrator run --detach --network loopback --network "$1" --bundle "$2" "$3"
"""


class Churn:
    """Processes every page of which is compared by themselves; it begins on the source."""

    def __init__(
        self,
        hosts: TwoHosts,
        *parts: str,
        program: ModuleType = churn,
        prepare: Callable[[Bundle], None] | None = None,
        **config: Any,
    ) -> None:
        """parts: of *program*, by default most of churn.py's; config: sections of config.json;
        prepare: what else is to be done to its bundle.
        """
        self.host, self.other = hosts.source, hosts.destination
        self._config = str(hosts.lab.ssh_config)
        self._parts = set(parts or PARTS)
        script = Path(str(program.__file__))
        python = ("/usr/bin/python3", "-I", "-S")
        bundle = make_bundle(self.host, NAME, *python, f"/{script.name}", *parts)
        for name in ("lib", "lib64"):
            (bundle.rootfs / name).symlink_to(f"usr/{name}")
        bundle.update(mounts=[*bundle.spec["mounts"], USR], **config)
        shutil.copy(script, bundle.rootfs)
        if prepare:
            prepare(bundle)
        network = f"type=veth,name=eth0,bridge={self.host.bridge},address=10.77.9.9/16"
        self.host.run("sh", "-c", RUN, "sh", network, f"/srv/{NAME}", NAME)
        self.checks()

    def checks(self, times: int = 2, timeout_s: float = 30) -> None:
        """Every part has compared every page, so often from now on; fails if one was wrong."""
        eventually(lambda: set(self._told()) >= self._parts, "every part has begun", timeout_s)
        begin = self._told()
        still = set(self._parts)

        def done() -> bool:
            now = self._told()
            still.difference_update(part for part in begin if now[part] >= begin[part] + times)
            return not still

        with suppress(AssertionError):
            eventually(done, "all goes on", timeout_s)
        self._told()
        assert not still, f"they stand still: {still}"

    def migrate(self, *options: str) -> dict[str, Any]:
        """Move it to the other host, and compare every page there; the report."""
        report: dict[str, Any] = json.loads(self.say_migrate("--json", *options))
        return report

    def say_migrate(self, *options: str) -> str:
        """The same, what it says."""
        bridges = f"{self.host.bridge}={self.other.bridge}"
        command = ("migrator", "migrate", "-F", self._config, "--bridge", bridges, *options)
        said = self.host.run(*command, NAME, f"root@{self.other.name}").stdout
        self.has_moved()
        return said

    def has_moved(self) -> None:
        """It is the other host's now: it runs there alone, and every page is right."""
        self.host, self.other = self.other, self.host
        self.checks()
        self.runs_where_it_should()

    def runs_where_it_should(self) -> None:
        """On its host, on the other one there is nothing."""
        assert [self._status(host) for host in (self.host, self.other)] == ["running", None]

    def cgroup(self, file: str) -> str:
        """What a file of its cpu cgroup says."""
        return self.host.run("cat", f"/sys/fs/cgroup/cpu/migrator/{NAME}/{file}").stdout.strip()

    def _status(self, host: Host) -> str | None:
        listed = json.loads(host.run("migrator", "list", "-f", "json").stdout) or []
        return next((each["status"] for each in listed if each["id"] == NAME), None)

    def _told(self) -> dict[str, int]:
        """How often each part has compared its pages."""
        told = {
            path.name: path.read_text()
            for path in (on_machine(self.host, f"/srv/{NAME}") / "rootfs/status").glob("*")
            if path.suffix != ".new"
        }
        wrong = [f"{part}: {said}" for part, said in told.items() if not said.startswith("ok ")]
        assert not wrong, "\n".join(wrong)
        return {part: int(said.split()[1]) for part, said in told.items()}


@contextmanager
def churning(hosts: TwoHosts, *parts: str, **config: Any) -> Iterator[Churn]:
    """A container that churns; afterwards both hosts must be as they were before."""
    both = (hosts.source, hosts.destination)
    for host in both:
        host.run("mkdir", "-p", "/run/migrator/migrations")
    before = [snapshot(host) for host in both]
    try:
        yield (container := Churn(hosts, *parts, **config))
        container.runs_where_it_should()
    finally:
        for host in both:
            host.run("sh", "-c", SWEEP, check=False)
    left: list[str] = []

    def clean() -> bool:
        pairs = zip(both, before, strict=True)
        left[:] = [
            f"{line} on {host.name}"
            for host, was in pairs
            for line in differences(was, snapshot(host))
        ]
        return not left

    with suppress(AssertionError):
        eventually(clean, "nothing is left", 5)
    assert not left, "\n".join(left)
