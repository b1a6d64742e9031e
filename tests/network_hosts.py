"""Hosts that are a network namespace each: the one that a test is in, and another on its bridge."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.network import in_netns
from tests import leftovers


def run(*argv: str) -> str:
    """Run a program in the network namespace of the calling thread; what it says."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@contextmanager
def network_host(name: str, *bridges: str) -> Iterator[Path]:
    """Be in a new namespace with *bridges*, which are up, and nothing else."""
    path = leftovers.NETNS / f"{name}-host"
    run("ip", "netns", "add", path.name)
    with in_netns(path):
        for bridge in bridges:
            run("ip", "link", "add", bridge, "type", "bridge")
            run("ip", "link", "set", bridge, "up")
        yield path
    run("ip", "netns", "delete", path.name)


@contextmanager
def network_peer(name: str, *addresses: str) -> Iterator[Path]:
    """Another host on br0 of the one that we are in; *addresses* as ip-address(8) takes them."""
    path = leftovers.NETNS / f"{name}-peer"
    run("ip", "netns", "add", path.name)
    run("ip", "link", "add", "peer0", "type", "veth", "peer", "eth0", "netns", path.name)
    run("ip", "link", "set", "peer0", "master", "br0", "up")
    with in_netns(path):
        for address in addresses:
            run("ip", "address", "add", *address.split(), "dev", "eth0")
        run("ip", "link", "set", "eth0", "up")
    yield path
    run("ip", "netns", "delete", path.name)
