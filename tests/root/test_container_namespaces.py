"""Namespaces that a container makes or joins, and the network made inside."""

import os
import subprocess
from pathlib import Path

import pytest

from runtime import (
    Container,
    NetworkError,
    Networks,
    SetupFailed,
    Stdio,
)
from runtime.network import Network, Route, in_netns
from tests.bundles import NAMESPACES
from tests.containers import Box, Traces, without_namespace
from tests.probes import program
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox]

BUSYBOX = program("busybox") or "busybox"
FILES = {
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "mount": "mnt",
    "cgroup": "cgroup",
    "time": "time",
}


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{FILES[kind]}")


def test_each_namespace_of_the_spec_is_new(box: Box) -> None:
    pid = box.create().state.init_pid
    assert all(namespace(pid, kind) != namespace("self", kind) for kind in NAMESPACES)


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "cgroup", "time"])
def test_a_namespace_that_is_not_in_the_spec_is_the_runtimes(box: Box, kind: str) -> None:
    box.update(linux={"namespaces": without_namespace(box.bundle.spec, kind)})
    pid = box.create().state.init_pid
    shared = {each for each in NAMESPACES if namespace(pid, each) == namespace("self", each)}
    assert shared == {kind}


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "cgroup", "time"])
def test_a_namespace_with_a_path_is_joined(box: Box, kind: str) -> None:
    first = box.start("-first")
    path = f"/proc/{first.state.init_pid}/ns/{FILES[kind]}"
    others = without_namespace(box.bundle.spec, kind)
    box.update(linux={"namespaces": [*others, {"type": kind, "path": path}]}, hostname="")
    second = box.start("-second", stdio=Stdio())
    pids = first.state.init_pid, second.state.init_pid
    assert namespace(pids[0], kind) == namespace(pids[1], kind)
    assert all(
        namespace(pids[0], each) != namespace(pids[1], each) for each in NAMESPACES if each != kind
    )
    links = " ".join(f"/proc/self/ns/{FILES[each]}" for each in NAMESPACES)
    script = f"for n in {links}; do readlink $n; done"
    assert box.exec(second, script).out.split() == [namespace(pids[1], k) for k in NAMESPACES]
    second.delete(force=True)
    first.delete(force=True)


def test_a_path_of_another_type_is_refused_before_anything_is_made(box: Box) -> None:
    others = without_namespace(box.bundle.spec, "network")
    wrong = {"type": "network", "path": "/proc/self/ns/uts"}
    box.update(linux={"namespaces": [*others, wrong]})
    before = Traces.now(box.root)
    with pytest.raises(SetupFailed, match="is a uts namespace"):
        box.create()
    assert Traces.now(box.root) == before


def test_the_loopback_of_a_new_network_is_up(box: Box) -> None:
    assert "inet 127.0.0.1/8" in box.shell("ip address show lo").out
    assert box.shell("ping -c1 -W1 127.0.0.1", capabilities={}).status in (0, 1)


@pytest.fixture
def bridge(fresh_netns: Path) -> Path:
    """A network namespace that plays the host, with the bridge br0."""
    with in_netns(fresh_netns):
        for command in (
            "link set lo up",
            "link add br0 type bridge",
            "address add 10.9.0.1/24 dev br0",
            "link set br0 up",
        ):
            subprocess.run(["ip", *command.split()], check=True)
    return fresh_netns


def links(netns: Path) -> set[str]:
    with in_netns(netns):
        text = subprocess.run(
            ["ip", "-o", "link"], check=True, capture_output=True, text=True
        ).stdout
    return {line.split(": ")[1].partition("@")[0] for line in text.splitlines()}


NETWORK = Network(
    type="veth",
    name="eth0",
    bridge="br0",
    address="10.9.0.2/24",
    gateway="10.9.0.1",
    mac_address="02:00:00:00:09:02",
)


@pytest.mark.needs_veth
@pytest.mark.needs_bridge
def test_interfaces_are_there_when_the_program_starts_and_gone_with_it(
    box: Box, bridge: Path
) -> None:
    route = Route(destination="10.77.0.0/16", gateway="10.9.0.1")
    box.program("sh", "-c", "ip address show eth0; ip route; exec sleep inf")
    out = box.bundle.path / "out"
    before = links(bridge)
    with in_netns(bridge):
        wanted = Networks((NETWORK,), (route,))
        container = box.start(networks=wanted, stdio=Stdio(None, out, out))
        answer = subprocess.run(
            [BUSYBOX, "ping", "-c1", "-W2", "10.9.0.2"], check=False, capture_output=True
        )
        assert answer.returncode == 0
        assert [network["name"] for network in container.state.networks if "name" in network]
        assert len(links(bridge) - before) == 1
        assert eventually(lambda: "10.77.0.0" in out.read_text())
        container.delete(force=True)
    assert links(bridge) == before
    seen = out.read_text()
    assert "inet 10.9.0.2/24" in seen
    assert "02:00:00:00:09:02" in seen
    assert "default via 10.9.0.1" in seen
    assert "10.77.0.0/16 via 10.9.0.1" in seen


@pytest.mark.needs_veth
@pytest.mark.needs_bridge
def test_a_create_that_fails_later_leaves_no_interface(box: Box, bridge: Path) -> None:
    box.program("nope")
    before = links(bridge)
    with in_netns(bridge), pytest.raises(SetupFailed, match="executable file not found"):
        box.create(networks=Networks((NETWORK,)))
    assert links(bridge) == before


@pytest.mark.usefixtures("traceless")
def test_a_bridge_that_is_not_there_undoes_the_create(box: Box, fresh_netns: Path) -> None:
    with in_netns(fresh_netns), pytest.raises(NetworkError, match="bridge br0 does not exist"):
        box.create(networks=Networks((NETWORK,)))


def test_no_interface_is_made_on_the_host_for_a_container_in_its_network(box: Box) -> None:
    box.update(linux={"namespaces": without_namespace(box.bundle.spec, "network")})
    with pytest.raises(SetupFailed, match="would be made on the host"):
        box.create(networks=Networks((NETWORK,)))


def test_a_container_in_the_hosts_pid_namespace_ends_whole(box: Box) -> None:
    box.update(linux={"namespaces": without_namespace(box.bundle.spec, "pid")})
    box.program("sh", "-c", "sleep inf & sleep inf & exec sleep inf")
    container = Container.load(box.root, box.start().id)
    container.delete(force=True)
    assert not [path for path in _cgroups_of_living() if box.id in path]


def _cgroups_of_living() -> list[str]:
    """A zombie keeps its cgroup's name until the host's init has waited for it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            cgroups = (process / "cgroup").read_text()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            found.append(cgroups)
    return found
