"""What stories and benchmark have in common: a container that is moved while it is watched."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from migrator.lab.host import Host
from migrator.lab.lab import Lab
from scenarios.bundle import Bundle
from scenarios.progress import Progress

CONTAINER_ADDRESS = "10.77.1.1"
PREFIX_LENGTH = 16
CONTAINER_MAC = "02:6d:69:67:01:01"
SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of the container while it moved.

    silence_ms: how long it did nothing, as its client or it itself saw it; noise_ms: the most that
    the observer's own scheduling can have added; problems: empty when nothing was lost; progress:
    how far it was from time to time, if it says so.
    """

    silence_ms: float
    noise_ms: float
    facts: Mapping[str, object] = field(default_factory=dict)
    problems: Sequence[str] = ()
    progress: Sequence[Progress] = ()


class Workload(Protocol):
    """A container to move, and somebody who watches it."""

    #: container id, and the name of its bundle
    name: str
    #: part of the command line of its process, and of no other
    marker: str
    #: what `watch` does, in words
    watching: str

    def bundle(self) -> Bundle:
        """What the container is made of."""

    def watch(self, lab: Lab) -> None:
        """Connect and begin to observe; the container runs on the first host."""

    def observed(self, lab: Lab, running_on: Host) -> Observation:
        """End the observation, and tell what was seen."""

    def stop_watching(self) -> None:
        """Leave no observer behind, whatever happened."""


@dataclass(frozen=True, slots=True)
class Move:
    """One migration, as the one who did it reports it; report: all of it, where there is more."""

    total_ms: float
    size_bytes: int
    downtime_ms: float | None = None
    report: Mapping[str, Any] = field(default_factory=dict)


class Mover(Protocol):
    """A way to run a container on one host of a lab and to move it to another."""

    def start(self, lab: Lab, workload: Workload) -> None:
        """Run the container on the first host."""

    def move(self, lab: Lab, workload: Workload) -> Move:
        """Move it to the second host."""

    def listed(self, host: Host) -> dict[str, str]:
        """The containers that the runtime of *host* knows, with the status of each."""

    def remove(self, lab: Lab, workload: Workload) -> None:
        """Remove the container from both hosts, wherever it is."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A migration and what was seen of it.

    copies: how many processes of the container each host has; listed: what its runtime says.
    """

    move: Move
    observation: Observation
    copies: Mapping[str, int]
    listed: Mapping[str, Mapping[str, str]]

    @property
    def problems(self) -> list[str]:
        """What must not be: a loss, two copies, none, one on the wrong host. Empty: all is well."""
        found = list(self.observation.problems)
        *others, last = self.copies
        if self.copies[last] != 1 or any(self.copies[name] for name in others):
            found.append(f"copies running: {dict(self.copies)}, not one on {last} alone")
        return found


Listener = Callable[[str], None]


def migrate_under_observation(
    lab: Lab, workload: Workload, mover: Mover, *, say: Listener = lambda _: None
) -> Outcome:
    """Run the container, watch it, move it, and remove it again; *say* hears how far it is."""
    source, destination = lab.hosts[:2]
    say(f"{source.name}: starting {workload.name}")
    try:
        mover.start(lab, workload)
        say(f"{lab.client.name}: {workload.watching}")
        workload.watch(lab)
        time.sleep(SETTLE_S)
        say(f"{source.name}: moving {workload.name} to {destination.name}")
        move = mover.move(lab, workload)
        time.sleep(SETTLE_S)
        say(f"{destination.name}: {workload.name} runs here now; ending the observation")
        copies = {host.name: count_processes(host, workload.marker) for host in lab.hosts}
        listed = {host.name: mover.listed(host) for host in lab.hosts}
        return Outcome(move, workload.observed(lab, destination), copies, listed)
    finally:
        workload.stop_watching()
        mover.remove(lab, workload)


def count_processes(host: Host, marker: str) -> int:
    """How many processes on *host* have *marker* in their command line; zombies have none."""
    script = 'for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline && echo; done 2>/dev/null'
    lines = host.run("sh", "-c", script).stdout.splitlines()
    return sum(marker in line for line in lines)


def bundle_on(host: Host, name: str) -> Path:
    """Where the bundle /srv/*name* of *host* is on this machine."""
    return host.node.directory / "srv" / name


def rootfs_on(host: Host, name: str) -> Path:
    """Where the root filesystem of that bundle is on this machine."""
    return bundle_on(host, name) / "rootfs"
