"""A container's network over checkpoint and restore: its own, under other names, and a given one.

Every test runs in a network namespace that plays the host, with a peer in another.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from criu_rpc import NetworkLock, Notification, Script
from runtime import CheckpointFailed, InvalidNetwork, Network, Networks, Route, SetupFailed
from runtime.network import in_netns, link_exists
from tests import leftovers
from tests.containers import without_namespace
from tests.migratory import COUNT, Migratory
from tests.network_hosts import network_host, network_peer, run
from tests.network_state import describe
from tests.waiting import eventually

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_busybox,
    pytest.mark.needs_criu,
    pytest.mark.needs_veth,
    pytest.mark.needs_bridge,
]

ETH0 = Network(
    type="veth",
    name="eth0",
    bridge="br0",
    mac_address="02:00:00:00:00:02",
    address="10.1.0.2/24",
    gateway="10.1.0.1",
    mtu=1400,
)
NETWORKS = Networks(
    (Network(type="loopback"), ETH0),
    (Route(destination="10.9.0.0/16", gateway="10.1.0.1", interface_name="eth0"),),
)
# An echo server on the container's address, beside the counter.
SERVE = f"nc -ll -p 7000 -e cat & {COUNT}"


@pytest.fixture(autouse=True)
def host(name: str) -> Iterator[Path]:
    """The test is in a namespace that plays the host: br0 and br1, on which it has one address."""
    with network_host(name, "br0", "br1") as path:
        run("ip", "link", "set", "lo", "up")  # CRIU probes TCP over it
        yield path


@pytest.fixture
def peer(name: str, host: Path) -> Iterator[Path]:
    """Another host on br0, 10.1.0.1."""
    with network_peer(name, "10.1.0.1/24") as path:
        yield path


def connect(peer: Path) -> socket.socket:
    """A connection from *peer* to the container's echo server."""
    deadline = time.monotonic() + 10
    while True:
        with in_netns(peer), suppress(ConnectionRefusedError, OSError):
            return socket.create_connection(("10.1.0.2", 7000), timeout=10)
        assert time.monotonic() < deadline


def echoes(connection: socket.socket, text: bytes) -> bool:
    connection.sendall(text + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        received = connection.recv(4096)
        assert received, "the connection was closed"
        answer += received
    return answer == text + b"\n"


def master_of(link: str) -> str:
    words = run("ip", "link", "show", link).split()
    return words[words.index("master") + 1]


@pytest.mark.parametrize("lock", ["NFTABLES", "IPTABLES"])
def test_a_connection_survives_on_another_bridge_by_another_name(
    migratory: Migratory, peer: Path, lock: str
) -> None:
    migratory.start(SERVE, networks=NETWORKS)
    former_end = NETWORKS.veths[0].host_end(migratory.box.id)
    with connect(peer) as connection:
        assert echoes(connection, b"before")
        migratory.checkpoint(tcp_established=True, network_lock=NetworkLock[lock])
        assert not link_exists(former_end)
        connection.sendall(b"meanwhile\n")
        run("ip", "link", "set", "peer0", "master", "br1")
        container = migratory.restore("-moved", veths={"eth0": "moved0@br1"})
        assert connection.recv(100) == b"meanwhile\n"
        assert echoes(connection, b"after")
    assert migratory.counts()
    assert master_of("moved0") == "br1"
    assert not link_exists(former_end)
    (network,) = [each for each in container.state.networks if each["type"] == "veth"]
    assert (network["host_interface_name"], network["bridge"]) == ("moved0", "br1")
    container.delete(force=True)
    assert not link_exists("moved0")


def test_the_network_is_as_it_was(migratory: Migratory) -> None:
    migratory.start(networks=NETWORKS)
    before = describe(migratory.container.state.init_pid)
    for _ in range(2):
        migratory.checkpoint()
        pid = migratory.restore().state.init_pid
        after = describe(pid)
        assert after["routes"] == before["routes"]
        assert after["interfaces"] == before["interfaces"]
    end = NETWORKS.veths[0].host_end(migratory.box.id)
    shown = run("ip", "-details", "link", "show", end)
    assert "mtu 1400" in shown
    assert "master br0" in shown
    assert f"alias migrator {migratory.box.id}" in shown


def test_bridges_can_be_renamed_alone(migratory: Migratory) -> None:
    migratory.start(networks=NETWORKS).checkpoint()
    migratory.restore(bridges={"br0": "br1"})
    assert master_of(NETWORKS.veths[0].host_end(migratory.box.id)) == "br1"


def test_a_host_end_whose_name_is_taken_gets_another(migratory: Migratory) -> None:
    """As of a container that was left running here."""
    migratory.start(networks=NETWORKS)
    original = migratory.container
    migratory.checkpoint(leave_running=True)
    run("ip", "link", "set", NETWORKS.veths[0].host_end(original.id), "nomaster")
    clone = migratory.restore("-clone")
    names = {
        each["host_interface_name"]
        for container in (original, clone)
        for each in container.state.networks
        if each["type"] == "veth"
    }
    assert len(names) == 2
    assert all(map(link_exists, names))
    clone.delete(force=True)
    original.delete(force=True)
    assert not any(map(link_exists, names))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"veths": {"eth0": "taken0"}}, "taken0' exists already on this host"),
        ({"veths": {"eth0": "end0@nobridge"}}, "nobridge' is no bridge of this host"),
        ({"bridges": {"br0": "taken0"}}, "taken0' is no bridge of this host"),
        ({"veths": {"eth7": "end0"}}, "eth7' is no veth of the container, which has: eth0"),
        ({"bridges": {"br7": "br1"}}, "br7' is none of its bridges: br0"),
        ({"veths": {"eth0": "a-name-that-is-too-long"}}, "host_interface_name"),
    ],
)
def test_a_place_that_cannot_be_had_is_refused_by_name(
    migratory: Migratory, options: dict[str, dict[str, str]], message: str
) -> None:
    run("ip", "link", "add", "taken0", "type", "veth", "peer", "taken1")
    migratory.start(networks=NETWORKS).checkpoint()
    with pytest.raises(InvalidNetwork, match=message):
        migratory.restore(**options)
    assert link_exists("taken0")
    migratory.restore()
    assert migratory.counts()


def test_a_refused_restore_leaves_no_host_end(migratory: Migratory) -> None:
    migratory.start(networks=NETWORKS).checkpoint()

    def refuse(notification: Notification) -> None:
        if notification.script == Script.POST_RESTORE:
            assert link_exists("moved0")
            raise LookupError

    with pytest.raises(LookupError):
        migratory.restore(veths={"eth0": "moved0"}, on_notify=refuse)
    assert not link_exists("moved0")


def test_a_held_container_answers_nothing_and_loses_nothing(
    migratory: Migratory, peer: Path
) -> None:
    """Neither before the dump ends nor while the restored one is held."""
    migratory.start(SERVE, networks=NETWORKS)
    with connect(peer) as connection:
        assert echoes(connection, b"before")

        def silent(notification: Notification) -> None:
            if notification.script in (Script.POST_DUMP, Script.POST_RESTORE):
                connection.settimeout(0.3)
                connection.sendall(b"x")
                with pytest.raises(TimeoutError):
                    connection.recv(1)
                connection.settimeout(10)

        migratory.checkpoint(tcp_established=True, on_notify=silent)
        migratory.restore(on_notify=silent)
        assert echoes(connection, b"") is False  # the two that were sent meanwhile come first
        assert echoes(connection, b"after")


def test_a_failed_dump_keeps_the_connection(migratory: Migratory, peer: Path) -> None:
    migratory.start(SERVE, networks=NETWORKS)
    with connect(peer) as connection:
        assert echoes(connection, b"before")

        def refuse(notification: Notification) -> None:
            if notification.script == Script.POST_DUMP:
                raise LookupError

        with pytest.raises(LookupError):
            migratory.checkpoint(tcp_established=True, on_notify=refuse)
        assert echoes(connection, b"after")


def test_connections_can_come_up_closed(migratory: Migratory, peer: Path) -> None:
    migratory.start(SERVE, networks=NETWORKS)
    with connect(peer) as connection:
        assert echoes(connection, b"before")
        migratory.checkpoint(tcp_established=True)
        migratory.restore(tcp_close=True)
        assert migratory.counts()
        with connect(peer) as another:
            assert echoes(another, b"anew")


def test_a_given_namespace_is_joined_again_and_left_alone(
    migratory: Migratory, fresh_netns: Path
) -> None:
    """As CNI makes them: by path, with interfaces that are not ours."""
    with in_netns(fresh_netns):
        run("ip", "address", "add", "10.7.0.2/32", "dev", "lo")
        run("ip", "link", "set", "lo", "up")
    namespaces = migratory.box.bundle.spec["linux"]["namespaces"]
    for each in namespaces:
        if each["type"] == "network":
            each["path"] = str(fresh_netns)
    migratory.box.update(linux={"namespaces": namespaces})
    migratory.start(SERVE)
    for _ in range(2):
        migratory.checkpoint(tcp_established=True)
        pid = migratory.restore().state.init_pid
        assert Path(f"/proc/{pid}/ns/net").stat().st_ino == fresh_netns.stat().st_ino
        with in_netns(fresh_netns):
            assert "CRIU" not in run("nft", "list", "ruleset")
            with socket.create_connection(("10.7.0.2", 7000), timeout=10) as connection:
                assert echoes(connection, b"there")
        assert migratory.counts()


def test_a_given_namespace_that_is_missing_is_named(migratory: Migratory, name: str) -> None:
    path = leftovers.NETNS / f"{name}-gone"
    run("ip", "netns", "add", path.name)
    namespaces = migratory.box.bundle.spec["linux"]["namespaces"]
    for each in namespaces:
        if each["type"] == "network":
            each["path"] = str(path)
    migratory.box.update(linux={"namespaces": namespaces})
    migratory.start().checkpoint()
    run("ip", "netns", "delete", path.name)
    with pytest.raises(SetupFailed, match=rf"network namespace.* {path}: no such file"):
        migratory.restore()


def test_a_container_of_the_hosts_network_is_carried(migratory: Migratory) -> None:
    """Its connections are locked one by one, in the host's namespace."""
    namespaces = [
        each
        for each in migratory.box.bundle.spec["linux"]["namespaces"]
        if each["type"] != "network"
    ]
    migratory.box.update(linux={"namespaces": namespaces})
    migratory.start(SERVE)
    deadline = time.monotonic() + 10
    while True:
        with suppress(ConnectionRefusedError):
            connection = socket.create_connection(("127.0.0.1", 7000), timeout=10)
            break
        assert time.monotonic() < deadline
    with connection:
        assert echoes(connection, b"before")
        migratory.checkpoint(tcp_established=True)
        migratory.restore()
        assert echoes(connection, b"after")
    assert eventually(lambda: "CRIU" not in run("nft", "list", "ruleset"))


def test_an_empty_network_is_for_hooks_to_fill(migratory: Migratory, room: Path) -> None:
    """Nothing of the former one is there, and hooks come before anything opens a socket."""
    migratory.start(networks=NETWORKS)
    migratory.checkpoint(empty_network=True)
    seen = room / "seen"
    script = f"nsenter -t $(sed 's/.*\"pid\": *//;s/[^0-9].*//') -n ip -o link > {seen}"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": [f"PATH={os.environ['PATH']}"]}
    migratory.box.update(hooks={"createRuntime": [hook]})
    container = migratory.restore()
    assert [line.split()[1] for line in seen.read_text().splitlines()] == ["lo:"]
    assert migratory.counts()
    assert container.state.networks == []
    container.delete(force=True)


def test_there_is_a_network_to_be_left_out(migratory: Migratory) -> None:
    migratory.box.update(
        linux={"namespaces": without_namespace(migratory.box.bundle.spec, "network")}
    )
    migratory.start()
    with pytest.raises(CheckpointFailed, match="no network namespace of its own to empty"):
        migratory.checkpoint(empty_network=True)
    assert migratory.counts()
