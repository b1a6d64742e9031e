"""Packets for a container that stands still reach it where it runs again, and each once.

Every test runs in a network namespace that plays the host; the peer is another host on its bridge.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from criu_rpc import Notification, Script
from runtime import Network, Networks
from runtime.checkpoint.dump import Checkpoint
from runtime.checkpoint.options import CheckpointOptions
from runtime.network import in_netns, isolate, setup
from runtime.network.held import Frames, Held, from_wire, replay, to_wire
from runtime.network.netns import Netns
from tests.migratory import COUNT, Migratory
from tests.network_hosts import network_host, network_peer, run
from tests.waiting import eventually

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_veth, pytest.mark.needs_bridge]

NETWORKS = Networks(
    (
        Network(type="loopback"),
        Network(
            type="veth",
            name="eth0",
            bridge="br0",
            mac_address="02:00:00:00:00:02",
            address="10.1.0.2/24",
        ),
    )
)
SERVE = f"nc -ll -p 7000 -e cat & {COUNT}"


@pytest.fixture(autouse=True)
def host(name: str) -> Iterator[Path]:
    with network_host(name, "br0") as path:
        run("ip", "link", "set", "lo", "up")
        yield path


@pytest.fixture
def peer(name: str, host: Path) -> Iterator[Path]:
    """Another host on br0, 10.1.0.1."""
    with network_peer(name, "10.1.0.1/24") as path:
        yield path


def datagrams(netns: Netns) -> socket.socket:
    """A socket for datagrams at port 7000 of the container."""
    with in_netns(netns):
        found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.bind(("10.1.0.2", 7000))
    found.settimeout(0.3)
    return found


def sender(peer: Path) -> socket.socket:
    with in_netns(peer):
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def meet(client: socket.socket, receiver: socket.socket) -> None:
    """Bridge and neighbours know the way, and nothing is under way."""

    def heard() -> bool:
        client.sendto(b"hello", ("10.1.0.2", 7000))
        return bool(everything(receiver))

    assert eventually(heard)


def everything(receiver: socket.socket) -> list[bytes]:
    found = []
    with suppress(TimeoutError):
        while True:
            found.append(receiver.recv(9000))
    return found


def test_each_datagram_arrives_once_and_in_order(fresh_netns: Path, peer: Path) -> None:
    setup(NETWORKS, fresh_netns, "one")
    to = ("10.1.0.2", 7000)
    with datagrams(fresh_netns) as receiver, sender(peer) as client:
        with Held(NETWORKS, "one", fresh_netns) as held:
            meet(client, receiver)
            held.begin()
            client.sendto(b"just before", to)
            assert everything(receiver) == [b"just before"]
            held.lock()
            for number in range(20):
                client.sendto(b"%d" % number * 1000, to)
            receiver.sendto(b"ours", ("10.1.0.1", 9))  # what it says itself is not held
            frames = from_wire(to_wire(held.take()))
            assert held.take() == {}
        expected = [b"%d" % number * 1000 for number in range(20)]
        assert everything(receiver) == expected
        assert replay(NETWORKS, "one", frames) == len(frames["eth0"]) >= 20
        assert everything(receiver) == expected


def test_what_is_for_others_is_not_kept(fresh_netns: Path, peer: Path) -> None:
    """As a bridge sends everywhere what is for a station that it has not heard yet."""
    setup(NETWORKS, fresh_netns, "one")
    elsewhere, everyone = bytes.fromhex("020000000099"), b"\xff" * 6
    with in_netns(peer):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with raw, Held(NETWORKS, "one", fresh_netns) as held:
        held.begin()
        kept: list[bytes] = []

        def everyone_heard() -> bool:
            for to in (elsewhere, everyone):
                raw.sendto(to + bytes.fromhex("02000000000188b5") + bytes(50), ("eth0", 0))
            frames = held.take().get("eth0", [])
            kept.extend(frame[10:16] for frame in frames if frame[22:24] == b"\x88\xb5")
            return everyone in kept

        assert eventually(everyone_heard)
    assert elsewhere not in kept


def test_what_came_before_the_host_end_went_down_is_kept(fresh_netns: Path, peer: Path) -> None:
    setup(NETWORKS, fresh_netns, "one")
    with (
        datagrams(fresh_netns) as receiver,
        sender(peer) as client,
        Held(NETWORKS, "one", fresh_netns) as held,
    ):
        meet(client, receiver)
        held.begin()
        client.sendto(b"early", ("10.1.0.2", 7000))
        isolate(NETWORKS, "one")
        frames = held.take()
    assert any(b"early" in frame for frame in frames["eth0"])


def test_of_more_than_can_be_kept_the_oldest_stay(fresh_netns: Path, peer: Path) -> None:
    setup(NETWORKS, fresh_netns, "one")
    with (
        datagrams(fresh_netns) as receiver,
        sender(peer) as client,
        Held(NETWORKS, "one", fresh_netns) as held,
    ):
        meet(client, receiver)
        for _ in range(3000):  # before it begins, nothing fills it
            client.sendto(bytes(1400), ("10.1.0.2", 7000))
        held.begin()
        for number in range(3000):
            client.sendto(number.to_bytes(4, "big") * 350, ("10.1.0.2", 7000))
        frames = held.take()["eth0"]
    sent = [frame[-4:] for frame in frames if len(frame) > 1400]
    assert sent == [number.to_bytes(4, "big") for number in range(len(sent))]
    assert 500 < len(sent) < 1000
    assert sum(map(len, frames)) <= 1 << 20


def test_a_host_end_that_is_gone_is_no_error() -> None:
    assert replay(NETWORKS, "one", {"eth0": [bytes(80)], "eth7": [bytes(80)]}) == 0


@pytest.mark.parametrize("data", [[], {"eth0": "x"}, {"eth0": [1]}, {"eth0": ["%"]}])
def test_what_is_no_list_of_frames_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_wire(data)


def connection(peer: Path) -> socket.socket:
    deadline = time.monotonic() + 10
    while True:
        with in_netns(peer), suppress(OSError):
            return socket.create_connection(("10.1.0.2", 7000), timeout=10)
        assert time.monotonic() < deadline


@pytest.mark.needs_busybox
@pytest.mark.needs_criu
@pytest.mark.parametrize("own_network", [True, False])
def test_a_restored_server_answers_at_once_what_came_while_it_stood_still(
    migratory: Migratory, peer: Path, own_network: bool
) -> None:
    """Requests on a connection, more than a segment of them, and a connection that is new."""
    migratory.start(SERVE, networks=NETWORKS)
    name, request = migratory.box.id, b"0123456789" * 2000
    options = CheckpointOptions(
        image_path=migratory.images, tcp_established=True, own_network=own_network
    )
    checkpoint = Checkpoint(migratory.container, options)
    frames: Frames = {}
    with (
        connection(peer) as old,
        socket_in(peer) as new,
        Held(NETWORKS, name, migratory.container.netns_path) as held,
    ):

        def dumped(notification: Notification) -> None:
            if notification.script == Script.POST_DUMP:
                old.sendall(request)
                new.connect_ex(("10.1.0.2", 7000))
                time.sleep(0.05)
                isolate(NETWORKS, name)
                frames.update(held.take())

        resumed = 0.0

        def restored(notification: Notification) -> None:
            nonlocal resumed
            if notification.script == Script.PRE_RESUME:
                assert replay(NETWORKS, name, frames) >= 2
                resumed = time.monotonic()

        checkpoint.run(dumped, held=held)
        migratory.container.delete(force=True)
        migratory.restore(on_notify=restored)
        assert received(old, len(request)) == request
        new.setblocking(True)
        new.sendall(b"hello")
        assert received(new, 5) == b"hello"
        took_s = time.monotonic() - resumed
    # 3 ms, where the client's own timers would make it 200 ms for the one, a second for the other
    assert took_s < 0.15


def socket_in(peer: Path) -> socket.socket:
    with in_netns(peer):
        found = socket.socket()
    found.setblocking(False)
    return found


def received(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += stream.recv(size) or b"the end"
    return data
