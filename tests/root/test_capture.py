"""A network namespace that we carry in CRIU's place: all that is in it, and when it is reached.

Every test runs in a network namespace that plays the host, with a peer in another.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from criu_rpc import Criu, Notification, Script
from runtime import CheckpointFailed, Network, Networks
from runtime.checkpoint.dump import Checkpoint
from runtime.checkpoint.options import CheckpointOptions
from runtime.errors import NetworkNotCarried
from runtime.network import in_netns, link_exists, setup
from runtime.network.capture import Description, Reader, objections
from runtime.network.netns import Netns
from runtime.network.nftables import Nftables
from runtime.network.recreate import Recreated
from runtime.network.unlock import unlock
from tests.migratory import COUNT, Migratory
from tests.network_hosts import network_host, network_peer, run
from tests.waiting import eventually

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_busybox,
    pytest.mark.needs_criu,
    pytest.mark.needs_nftables,
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
    ipv6_address="fd00:1::2/64",
    mtu=1400,
    hairpin_mode=True,
)
NETWORKS = Networks((Network(type="loopback"), ETH0))
MOVED = Networks((NETWORKS.networks[0], replace(ETH0, bridge="br1", host_interface_name="moved0")))
SERVE = f"nc -ll -p 7000 -e cat & {COUNT}"
# A client of the container's own, over its loopback.
TALK = (
    "until grep -q :1B58.*0A /proc/net/tcp /proc/net/tcp6; do sleep 0.05; done; "
    "(while :; do echo said; sleep 0.02; done) | nc 127.0.0.1 7000 > /tmp/heard"
)
# One of everything that a namespace may hold and that is made again.
CHANGES = """
ip address add 10.1.0.3/24 dev eth0
ip address add 10.5.0.3/32 dev lo
ip address add fd00:1::77/64 dev eth0 valid_lft 1000 preferred_lft 500
ip route add 10.9.0.0/16 via 10.1.0.1 metric 7
ip route add 10.10.0.0/16 nexthop via 10.1.0.1 nexthop via 10.1.0.9
ip route add blackhole 10.66.0.0/16
ip route add default dev eth0 table 77
ip -6 route add unreachable fd66::/64
ip -6 route add fd77::/64 nexthop via fd00:1::5 nexthop via fd00:1::6
ip rule add from 10.1.0.2 table 77
ip -6 rule add fwmark 7 table 78
ip neighbour add 10.1.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent
ip link set eth0 txqueuelen 77 alias uplink
sysctl -w net.ipv4.ip_forward=1
sysctl -w net.ipv4.conf.eth0.rp_filter=2
sysctl -w net.ipv6.conf.all.forwarding=1
sysctl -w net.ipv6.conf.eth0.hop_limit=33
sysctl -w net.ipv4.ip_local_port_range=20000\\ 30000
"""


def run_in(netns: Netns, script: str) -> None:
    with in_netns(netns):
        run("sh", "-ec", script)


def described(netns: Netns) -> Description:
    with Reader(netns) as reader:
        return reader.read()


@pytest.fixture(autouse=True)
def host(name: str) -> Iterator[Path]:
    """The test is in a namespace that plays the host: br0 and br1, on which it has one address."""
    with network_host(name, "br0", "br1") as path:
        run("ip", "link", "set", "lo", "up")  # CRIU probes TCP over it
        yield path


@pytest.fixture
def peer(name: str, host: Path) -> Iterator[Path]:
    """Another host on br0, 10.1.0.1."""
    with network_peer(name, "10.1.0.1/24", "fd00:1::1/64 nodad") as path:
        yield path


def connect(peer: Path, address: str = "10.1.0.2") -> socket.socket:
    """A connection from *peer* to the container's echo server."""
    deadline = time.monotonic() + 10
    while True:
        with in_netns(peer), suppress(OSError):
            return socket.create_connection((address, 7000), timeout=10)
        assert time.monotonic() < deadline


def echoes(connection: socket.socket, text: bytes) -> bool:
    connection.sendall(text + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        received = connection.recv(4096)
        assert received, "the connection was closed"
        answer += received
    return answer == text + b"\n"


def planned(migratory: Migratory) -> Checkpoint:
    options = CheckpointOptions(image_path=migratory.images, tcp_established=True, own_network=True)
    return Checkpoint(migratory.container, options)


def at(script: Script, act: Callable[[], object]) -> Callable[[Notification], None]:
    def handler(notification: Notification) -> None:
        if notification.script == script:
            act()

    return handler


def refuse() -> None:
    raise LookupError


def test_all_that_it_holds_is_made_again(fresh_netns: Path) -> None:
    setup(NETWORKS, fresh_netns, "one")
    run_in(fresh_netns, CHANGES)
    assert eventually(lambda: "tentative" not in in_it(fresh_netns, "ip", "address"))
    description = described(fresh_netns)
    assert objections(description, ["eth0"]) == []
    with Recreated(MOVED, "two") as made:
        made.fill(description)
        assert description.differences(described(made.path)) == []
        without = replace(description, neighbours=(), rules=description.rules[1:])
        made.fill(without)
        assert without.differences(described(made.path)) == []
    assert eventually(lambda: not link_exists("moved0"))


def in_it(netns: Netns, *argv: str) -> str:
    with in_netns(netns):
        return run(*argv)


def reachable(address: str) -> bool:
    """Whether somebody there says that nobody listens."""
    try:
        socket.create_connection((address, 7000), timeout=0.5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def test_it_cannot_be_reached_before_it_is_connected(fresh_netns: Path) -> None:
    setup(NETWORKS, fresh_netns, "one")
    description = described(fresh_netns)
    run("ip", "address", "add", "10.1.0.1/24", "dev", "br1")
    with Recreated(MOVED, "two") as made:
        made.fill(description)
        assert "master" not in run("ip", "link", "show", "moved0")
        assert not reachable("10.1.0.2")
        made.connect()
        made.connect()
        assert reachable("10.1.0.2")
        shown = run("ip", "-details", "link", "show", "moved0")
    for word in ("master br1", "hairpin on", "mtu 1400", "alias migrator two"):
        assert word in shown


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ip link add br9 type bridge", "it has the interface br9"),
        ("nft add table inet filter", "it has the nftables table filter"),
        ("ip link set lo down", "its loopback is down"),
        ("ip nexthop add id 1 via 10.1.0.1 dev eth0", "it has nexthop objects"),
        ("ip xfrm policy add dir out src 10.3.0.0/16 dst 10.4.0.0/16", "it has IPsec policies"),
        ("ip link property add dev eth0 altname uplink", "it has other names of eth0"),
    ],
)
def test_what_is_not_made_again_is_named(fresh_netns: Path, change: str, reason: str) -> None:
    setup(NETWORKS, fresh_netns, "one")
    run_in(fresh_netns, change)
    assert objections(described(fresh_netns), ["eth0"]) == [reason]


def test_what_the_other_host_has_not_is_named(fresh_netns: Path) -> None:
    setup(NETWORKS, fresh_netns, "one")
    description = described(fresh_netns)
    elsewhere = {"ipv4/tcp_congestion_control": "unheard-of"}
    with Recreated(MOVED, "two") as made, pytest.raises(NetworkNotCarried, match="'unheard-of'"):
        made.fill(replace(description, sysctls=description.sysctls | elsewhere))
    assert eventually(lambda: not link_exists("moved0"))


@pytest.mark.parametrize("address", ["10.1.0.2", "fd00:1::2"])
def test_a_connection_survives_on_another_bridge_by_another_name(
    migratory: Migratory, peer: Path, address: str
) -> None:
    migratory.start(f"({TALK}) & {SERVE}", networks=NETWORKS)
    before = described(migratory.container.state.init_pid)
    heard = migratory.box.bundle.rootfs / "tmp/heard"
    with connect(peer, address) as connection:
        assert echoes(connection, b"before")
        assert eventually(lambda: heard.exists() and heard.stat().st_size)
        migratory.checkpoint(tcp_established=True, own_network=True)
        connection.sendall(b"meanwhile\n")
        run("ip", "link", "set", "peer0", "master", "br1")
        container = migratory.restore("-moved", veths={"eth0": "moved0@br1"})
        assert connection.recv(100) == b"meanwhile\n"
        assert echoes(connection, b"after")
    size = heard.stat().st_size
    assert eventually(lambda: heard.stat().st_size > size), "its own connection is dead"
    assert migratory.counts()
    assert before.differences(described(container.state.init_pid)) == []
    assert "master br1" in run("ip", "link", "show", "moved0")
    container.delete(force=True)
    assert not link_exists("moved0")


def test_a_held_container_answers_nothing_and_loses_nothing(
    migratory: Migratory, peer: Path
) -> None:
    """Neither before the dump ends nor while the restored one is held."""
    migratory.start(SERVE, networks=NETWORKS)
    with connect(peer) as connection:
        assert echoes(connection, b"before")

        def silent() -> None:
            connection.settimeout(0.3)
            connection.sendall(b"x")
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(10)

        asked = {"tcp_established": True, "own_network": True}
        migratory.checkpoint(**asked, on_notify=at(Script.POST_DUMP, silent))
        migratory.restore(on_notify=at(Script.POST_RESTORE, silent))
        assert echoes(connection, b"") is False  # the two that were sent meanwhile come first
        assert echoes(connection, b"after")


def test_no_delayed_acknowledgement_leaves_a_locked_namespace(
    fresh_netns: Path, peer: Path
) -> None:
    """Its timestamp would be beyond the one that the restored socket goes on with."""
    setup(NETWORKS, fresh_netns, "one")
    with ExitStack() as opened:
        with in_netns(fresh_netns):
            listener = opened.enter_context(socket.create_server(("10.1.0.2", 7000)))
            tables = opened.enter_context(Nftables())
        client = opened.enter_context(connect(peer))
        server = opened.enter_context(listener.accept()[0])
        for _ in range(20):  # after which it delays what it acknowledges, by 40 ms
            client.send(b"ask")
            server.send(server.recv(9))
            client.recv(9)
        client.send(b"said just before")
        tables.lock("CRIU-test")
        tables.commit()
        time.sleep(0.15)
        assert unacknowledged(client) == 1
        unlock(fresh_netns, [], shared=False)
        assert eventually(lambda: unacknowledged(client) == 0)


def unacknowledged(connection: socket.socket) -> int:
    """linux/tcp.h: tcpi_unacked."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", info, 24)[0])


@pytest.mark.parametrize("script", [Script.QUERY_EXT_FILES, Script.POST_DUMP])
def test_a_failed_dump_keeps_the_connection(
    migratory: Migratory, peer: Path, script: Script
) -> None:
    migratory.start(SERVE, networks=NETWORKS)
    with connect(peer) as connection:
        assert echoes(connection, b"before")
        with pytest.raises(LookupError):
            migratory.checkpoint(
                tcp_established=True, own_network=True, on_notify=at(script, refuse)
            )
        assert echoes(connection, b"after")
    assert "CRIU" not in in_it(migratory.container.netns_path, "nft", "list", "tables")


def test_a_criu_that_dies_leaves_no_lock(migratory: Migratory, peer: Path) -> None:
    migratory.start(SERVE, networks=NETWORKS)
    with connect(peer) as connection:
        assert echoes(connection, b"before")
        checkpoint = planned(migratory)
        with Criu.start(within=checkpoint.place()) as criu, pytest.raises(CheckpointFailed):
            checkpoint.run(at(Script.QUERY_EXT_FILES, criu.kill), criu=criu)
        assert echoes(connection, b"after")


def test_a_refused_restore_leaves_no_host_end(migratory: Migratory) -> None:
    migratory.start(networks=NETWORKS).checkpoint(own_network=True)
    with pytest.raises(LookupError):
        migratory.restore(veths={"eth0": "moved0"}, on_notify=at(Script.POST_RESTORE, refuse))
    assert not link_exists("moved0")
    migratory.restore()
    assert migratory.counts()


def test_what_changes_up_to_the_freeze_comes_along(migratory: Migratory) -> None:
    migratory.start(networks=NETWORKS)
    checkpoint = planned(migratory)
    run_in(migratory.container.netns_path, "ip route add 10.9.0.0/16 via 10.1.0.1")
    early = checkpoint.record
    assert early.namespace is not None
    checkpoint.run()
    migratory.container.delete(force=True)
    migratory.restore(record=early)
    assert "10.9.0.0/16" in in_it(migratory.container.netns_path, "ip", "route")


def test_what_can_no_more_be_made_again_refuses_the_dump(migratory: Migratory) -> None:
    migratory.start(networks=NETWORKS)
    checkpoint = planned(migratory)
    run_in(migratory.container.netns_path, "nft add table inet filter")
    with pytest.raises(CheckpointFailed, match="nftables table filter; try again"):
        checkpoint.run()
    assert migratory.counts()
    assert planned(migratory).record.namespace is None


def test_a_criu_that_was_started_elsewhere_is_refused(migratory: Migratory) -> None:
    migratory.start(networks=NETWORKS)
    with (
        Criu.start() as criu,
        pytest.raises(CheckpointFailed, match="in another network namespace"),
    ):
        planned(migratory).run(criu=criu)
    assert migratory.counts()
