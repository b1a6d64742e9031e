"""What tests do with the hosts of a lab: bundles on them, and whether all is as it was."""

import difflib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from migrator.lab.host import Host
from migrator.lab.lab import Lab
from tests import bundles
from tests.lab import inventory
from tests.waiting import eventually

Snapshot = dict[str, list[str]]

#: marks of a module that moves containers between such hosts
NEEDED = [
    pytest.mark.needs_root,
    pytest.mark.needs_criu,
    pytest.mark.needs_sshd,
    pytest.mark.needs_rsync,
    pytest.mark.needs_busybox,
]

SETTLED_WITHIN_S = 10


@dataclass(frozen=True)
class TwoHosts:
    """A lab in a test's hands: the source, the destination and the client host."""

    lab: Lab

    @property
    def source(self) -> Host:
        return self.lab.hosts[0]

    @property
    def destination(self) -> Host:
        return self.lab.hosts[1]

    @property
    def client(self) -> Host:
        return self.lab.client

    @property
    def to_destination(self) -> tuple[str, ...]:
        """The options and the destination of a `migrator migrate` from the source."""
        bridges = f"{self.source.bridge}={self.destination.bridge}"
        return "-F", str(self.lab.ssh_config), "--bridge", bridges, f"root@{self.destination.name}"


def on_machine(host: Host, path: str) -> Path:
    """Where a path below /srv or /tmp of *host* is on this machine."""
    top, _, rest = path.strip("/").partition("/")
    assert top in ("srv", "tmp")
    return host.node.directory / top / rest


def make_bundle(host: Host, name: str, *args: str) -> bundles.Bundle:
    """A busybox bundle /srv/*name* on *host*; its `path` is the one on this machine."""
    return bundles.make(on_machine(host, f"/srv/{name}"), *args)


def snapshot(host: Host) -> Snapshot:
    """All that a migration could leave on *host*, by kind: processes, mounts, links, files ..."""
    taken: Snapshot = json.loads(host.run("/usr/bin/python3", "-I", inventory.__file__).stdout)
    return taken


@contextmanager
def nothing_left_behind(*hosts: Host) -> Iterator[None]:
    """Fail the test when anything on *hosts* is not afterwards as it was before.

    A far agent ends by itself when its connection has ended, which may take a moment.
    """
    before = [snapshot(host) for host in hosts]
    yield
    for host, was in zip(hosts, before, strict=True):
        found = [was]
        if not eventually(lambda: _is(was, found, host), SETTLED_WITHIN_S):  # noqa: B023 - called here
            changed = differences(was, found[-1])
            pytest.fail("\n".join([f"left behind on {host.name}:", *changed]), pytrace=False)


def _is(was: Snapshot, found: list[Snapshot], host: Host) -> bool:
    found.append(snapshot(host))
    return found[-1] == was


def differences(before: Snapshot, after: Snapshot) -> Sequence[str]:
    """What is more (+) or less (-) than before, each with its kind."""
    return [
        f"{line[0]} {kind}: {line[2:]}"
        for kind in before
        for line in difflib.ndiff(before[kind], after[kind])
        if line[0] in "+-"
    ]
