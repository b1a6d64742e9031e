"""What a lab consists of: names, addresses and directories. Pure, nothing here touches the machine.

A lab is hosts (alpha, beta, ...), a client host, and the switch that they are all plugged into.
Each is a set of namespaces below one init process; see docs/lab.md for the picture.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from migrator.lab.errors import LabError

LABS = Path("/var/lib/migrator-lab")
HOST_NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
CLIENT = "client"
SWITCH = "switch"
PREFIX_LENGTH = 16
UPLINK = "mig-up"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


@dataclass(frozen=True, slots=True)
class Node:
    """One set of namespaces: a host, the client host or the switch."""

    lab: str
    name: str
    number: int

    @property
    def directory(self) -> Path:
        return LABS / self.lab / self.name

    @property
    def cgroup(self) -> str:
        """Below the root of every hierarchy; what runs in the node sees it as its own root."""
        return f"migrator-lab-{self.lab}/{self.name}"

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def address_v6(self) -> str:
        return f"fd77::{self.number:x}"

    @property
    def mac(self) -> str:
        """Given to the bridge: a bridge that takes its ports' changes with every container."""
        return f"02:6d:69:67:00:{self.number:02x}"

    @property
    def interface(self) -> str:
        """Bears the node's address: a host's bridge, the client's own cable.

        br0 on the first host, br7 on the second, br14 ...: a migration has to remap them.
        """
        return UPLINK if self.name == CLIENT else f"br{7 * (self.number - 1)}"

    @property
    def port(self) -> str:
        """The switch's end of this node's cable."""
        return f"mig-{self.name}"


@dataclass(frozen=True, slots=True)
class Layout:
    """All of one lab."""

    name: str
    hosts: tuple[Node, ...]
    client: Node
    switch: Node

    @property
    def directory(self) -> Path:
        return LABS / self.name

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (self.switch, *self.hosts, self.client)

    @property
    def plugged(self) -> tuple[Node, ...]:
        """Everything with a cable to the switch."""
        return (*self.hosts, self.client)

    @property
    def ssh_config(self) -> Path:
        return self.directory / "ssh_config"


def plan(name: str, host_count: int = 2) -> Layout:
    """The layout of a lab called *name* with so many hosts."""
    check_name(name)
    if not 1 <= host_count <= len(HOST_NAMES):
        raise LabError(f"a lab has 1 to {len(HOST_NAMES)} hosts, not {host_count}")
    hosts = tuple(Node(name, HOST_NAMES[i], i + 1) for i in range(host_count))
    return Layout(name, hosts, Node(name, CLIENT, 100), Node(name, SWITCH, 200))


def check_name(name: str) -> None:
    """Refuse a lab name that could not be a directory, or that would reach out of LABS."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"invalid lab name {name!r}: use at most 32 letters, digits, '_', '.' and '-', "
            "beginning with a letter or a digit"
        )
