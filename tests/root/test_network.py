"""A container's network in the real kernel: both ends, addresses, routes, failures, announcements.

Every test runs inside a network namespace of its own that plays the host.
"""

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import NetworkError, SetupFailed
from runtime.network import (
    Network,
    Networks,
    Route,
    adopt,
    announce,
    bridge_exists,
    in_netns,
    link_exists,
    network_lock,
    rtnetlink,
    setup,
    teardown,
)
from tests import leftovers
from tests.network_hosts import network_host, run
from tests.network_state import describe

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_veth, pytest.mark.needs_bridge]

LOOPBACK = Network(type="loopback")
ETH0 = Network(
    type="veth",
    name="eth0",
    bridge="br0",
    mac_address="02:00:00:00:00:02",
    address="10.1.0.2/24",
    gateway="10.1.0.1",
    ipv6_address="fd00:1::2/64",
    ipv6_gateway="fd00:1::1",
)


@pytest.fixture(autouse=True)
def host(name: str) -> Iterator[Path]:
    """The test is in a namespace that plays the host, with the bridges br0 and br1."""
    with network_host(name, "br0", "br1") as path:
        run("ip", "address", "add", "10.1.0.1/24", "dev", "br0")
        run("ip", "address", "add", "fd00:1::1/64", "dev", "br0", "nodad")
        yield path


def links() -> set[str]:
    return {link for _, link in socket.if_nameindex()}


def interface(netns: Path, name: str) -> dict[str, Any]:
    return next(i for i in describe(netns)["interfaces"] if i["name"] == name)


def bridge_port(name: str) -> str:
    return run("ip", "-details", "link", "show", name)


def test_a_pair_has_all_that_was_asked_for(fresh_netns: Path) -> None:
    network = Network(**ETH0.to_json() | {"mtu": 1400, "txqueuelen": 77, "hairpin_mode": True})
    (end,) = setup(Networks((LOOPBACK, network)), fresh_netns, "one")
    eth0 = interface(fresh_netns, "eth0")
    assert eth0["mac_address"] == "02:00:00:00:00:02"
    assert (eth0["mtu"], eth0["txqueuelen"], eth0["up"], eth0["kind"]) == (1400, 77, True, "veth")
    assert {"10.1.0.2/24", "fd00:1::2/64"} <= set(eth0["addresses"])
    assert interface(fresh_netns, "lo")["up"]
    shown = bridge_port(end.name)
    assert "mtu 1400" in shown
    assert "qlen 77" in shown
    assert "master br0" in shown
    assert "hairpin on" in shown
    assert "alias migrator one" in shown
    assert "state UP" in shown


def test_the_address_answers_at_once_in_both_families(fresh_netns: Path) -> None:
    setup(Networks((ETH0,)), fresh_netns, "one")
    for family, address in ((socket.AF_INET, "10.1.0.2"), (socket.AF_INET6, "fd00:1::2")):
        with in_netns(fresh_netns):
            server = socket.create_server((address, 7000), family=family)
        with server, socket.create_connection((address, 7000), timeout=5) as client:
            assert client.getpeername()[0] == address


def test_gateways_are_the_default_routes(fresh_netns: Path) -> None:
    setup(Networks((ETH0,)), fresh_netns, "one")
    assert describe(fresh_netns)["routes"] == [
        {"destination": "0.0.0.0/0", "gateway": "10.1.0.1", "interface_name": "eth0"},
        {"destination": "::/0", "gateway": "fd00:1::1", "interface_name": "eth0"},
    ]


@pytest.mark.parametrize(
    ("route", "shown"),
    [
        (
            Route(destination="10.2.0.0/16", gateway="10.1.0.9"),
            {"destination": "10.2.0.0/16", "gateway": "10.1.0.9", "interface_name": "eth0"},
        ),
        (
            Route(destination="10.3.0.0/16", interface_name="eth0"),
            {"destination": "10.3.0.0/16", "interface_name": "eth0"},
        ),
        (
            Route(destination="10.4.0.0/16", source="10.1.0.2/24", interface_name="eth0"),
            {"destination": "10.4.0.0/16", "source": "10.1.0.2", "interface_name": "eth0"},
        ),
        (
            Route(gateway="10.1.0.9", interface_name="eth0"),
            {"destination": "0.0.0.0/0", "gateway": "10.1.0.9", "interface_name": "eth0"},
        ),
        (
            Route(source="10.1.0.2", interface_name="eth0"),
            {"destination": "0.0.0.0/0", "source": "10.1.0.2", "interface_name": "eth0"},
        ),
        (
            Route(destination="fd00:2::/64", gateway="fd00:1::9"),
            {"destination": "fd00:2::/64", "gateway": "fd00:1::9", "interface_name": "eth0"},
        ),
        (
            Route(destination="::/0", gateway="fe80::1", interface_name="eth0"),
            {"destination": "::/0", "gateway": "fe80::1", "interface_name": "eth0"},
        ),
        (
            Route(destination="fd00:3::/64", source="fd00:1::2", interface_name="eth0"),
            {"destination": "fd00:3::/64", "source": "fd00:1::2", "interface_name": "eth0"},
        ),
    ],
)
def test_every_form_of_route_is_made(
    fresh_netns: Path, route: Route, shown: dict[str, str]
) -> None:
    network = Network(**ETH0.to_json() | {"gateway": "", "ipv6_gateway": ""})
    setup(Networks((network,), (route,)), fresh_netns, "one")
    assert describe(fresh_netns)["routes"] == [shown]


def test_a_gateway_outside_the_network_is_reached_by_a_route_to_itself(fresh_netns: Path) -> None:
    network = Network(type="veth", name="eth0", bridge="br0", address="10.9.0.2/32")
    routes = (
        Route(destination="169.254.1.1/32", interface_name="eth0"),
        Route(gateway="169.254.1.1", interface_name="eth0"),
    )
    setup(Networks((network,), routes), fresh_netns, "one")
    assert [route["destination"] for route in describe(fresh_netns)["routes"]] == [
        "0.0.0.0/0",
        "169.254.1.1/32",
    ]


def test_a_pair_without_mtu_has_its_bridges(fresh_netns: Path) -> None:
    run("ip", "link", "set", "br0", "mtu", "1450")
    (end,) = setup(Networks((ETH0,)), fresh_netns, "one")
    assert interface(fresh_netns, "eth0")["mtu"] == 1450
    assert "mtu 1450" in bridge_port(end.name)


def test_a_new_port_does_not_change_the_bridges_address(fresh_netns: Path) -> None:
    run("ip", "link", "add", "mig-p", "type", "veth", "peer", "name", "mig-q")
    run("ip", "link", "set", "mig-p", "master", "br0", "up")
    before = mac_of("br0")
    setup(Networks((ETH0,)), fresh_netns, "one")
    assert mac_of("br0") == before


def mac_of(name: str) -> str:
    return bridge_port(name).split("link/ether ")[1].split()[0]


def test_two_pairs_go_to_two_bridges(fresh_netns: Path) -> None:
    second = Network(type="veth", name="eth1", bridge="br1", address="10.2.0.2/24")
    ends = setup(Networks((ETH0, second)), fresh_netns, "one")
    for end, bridge in zip(ends, ("br0", "br1"), strict=True):
        assert f"master {bridge}" in bridge_port(end.name)


def test_the_container_is_named_by_a_pid_too() -> None:
    with subprocess.Popen(["unshare", "--net", "sleep", "inf"]) as child:
        wait_for_netns(child.pid)
        (end,) = setup(Networks((LOOPBACK, ETH0)), child.pid, "one")
        with in_netns(child.pid):
            shown = run("ip", "-json", "link", "show", "eth0")
        assert json.loads(shown)[0]["link_index"] == end.index
        child.kill()


def wait_for_netns(pid: int) -> None:
    ours = Path("/proc/thread-self/ns/net").readlink()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/ns/net").readlink() == ours:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_loopback_alone_needs_no_netlink_library(fresh_netns: Path) -> None:
    program = (
        "import sys\n"
        "from runtime.network import Networks, setup, teardown\n"
        "networks = Networks().complete('one')\n"
        f"setup(networks, {str(fresh_netns)!r}, 'one')\n"
        "teardown(networks, 'one')\n"
        "assert 'pyroute2' not in sys.modules\n"
    )
    run(sys.executable, "-c", program)
    assert interface(fresh_netns, "lo")["up"]


def test_teardown_removes_both_ends_and_may_be_repeated(fresh_netns: Path) -> None:
    before = links()
    networks = Networks((LOOPBACK, ETH0)).complete("one")
    setup(networks, fresh_netns, "one")
    for _ in range(2):
        teardown(networks, "one")
        assert links() == before
    assert [i["name"] for i in describe(fresh_netns)["interfaces"]] == ["lo"]


def test_teardown_of_a_container_that_has_ended_loads_no_netlink_library(name: str) -> None:
    networks = Networks((ETH0,)).complete("one")
    run("ip", "netns", "add", f"{name}-ended")
    setup(networks, leftovers.NETNS / f"{name}-ended", "one")
    run("ip", "netns", "delete", f"{name}-ended")
    program = (
        "import json, sys\n"
        "from runtime.network import Networks, teardown\n"
        f"teardown(Networks.from_json(json.loads({json.dumps(networks.to_json())!r})), 'one')\n"
        "assert 'pyroute2' not in sys.modules\n"
    )
    run(sys.executable, "-c", program)
    assert not link_exists(networks.veths[0].host_interface_name)


def test_an_interface_that_goes_while_it_is_torn_down_is_no_fault(
    fresh_netns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = Networks((ETH0,)).complete("one")
    end = networks.veths[0].host_interface_name
    setup(networks, fresh_netns, "one")
    connect = rtnetlink.connect

    def connect_late() -> AbstractContextManager[Any]:
        run("ip", "link", "delete", end)
        return connect()

    monkeypatch.setattr(rtnetlink, "connect", connect_late)
    teardown(networks, "one")
    assert not link_exists(end)


def test_teardown_leaves_another_containers_interface_alone(fresh_netns: Path) -> None:
    networks = Networks((Network(**ETH0.to_json() | {"host_interface_name": "veth7"}),))
    setup(networks, fresh_netns, "one")
    teardown(networks, "two")
    assert link_exists("veth7")


def test_teardown_leaves_what_is_no_veth_alone() -> None:
    networks = Networks((Network(**ETH0.to_json() | {"host_interface_name": "br1"}),))
    teardown(networks, "one")
    assert bridge_exists("br1")


def test_a_restored_pair_gets_what_criu_does_not_carry(fresh_netns: Path) -> None:
    networks = Networks(
        (Network(**ETH0.to_json() | {"mtu": 1400, "txqueuelen": 9, "hairpin_mode": True}),)
    ).complete("one")
    name = networks.veths[0].host_interface_name
    run(
        "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", fresh_netns.name
    )
    run("ip", "link", "set", name, "master", "br0", "up")
    (end,) = adopt(networks, "one")
    shown = bridge_port(end.name)
    assert all(part in shown for part in ("mtu 1400", "qlen 9", "hairpin on", "alias migrator one"))


def test_adopting_a_pair_that_is_not_there_names_it() -> None:
    networks = Networks((ETH0,)).complete("one")
    with pytest.raises(NetworkError, match=r"eth0: its host end mv\w+ does not exist"):
        adopt(networks, "one")


def refused(networks: Networks, netns: Path) -> str:
    """The message; neither host nor container is changed by the attempt."""
    before = links(), describe(netns)
    with pytest.raises(NetworkError) as caught:
        setup(networks, netns, "one")
    assert (links(), describe(netns)) == before
    return str(caught.value)


def test_a_missing_bridge_is_named_with_the_remedy(fresh_netns: Path) -> None:
    network = Network(type="veth", name="eth0", bridge="br7")
    assert refused(Networks((network,)), fresh_netns) == (
        "network interface eth0: bridge br7 does not exist on this host: "
        "create it or give --network ...,bridge=NAME"
    )


def test_an_interface_that_is_no_bridge_is_refused(fresh_netns: Path) -> None:
    network = Network(type="veth", name="eth0", bridge="lo")
    assert refused(Networks((network,)), fresh_netns).endswith("lo is not a bridge")


def test_a_host_end_whose_name_is_taken_is_refused(fresh_netns: Path) -> None:
    network = Network(type="veth", name="eth0", bridge="br0", host_interface_name="br1")
    said = refused(Networks((network,)), fresh_netns)
    assert "its host end br1 exists already on this host" in said


def test_a_container_end_whose_name_is_taken_is_refused(fresh_netns: Path) -> None:
    with in_netns(fresh_netns):
        run("ip", "link", "add", "eth0", "type", "bridge")
    said = refused(Networks((ETH0,)), fresh_netns)
    assert said == ("network interface eth0: exists already in the container's network namespace")


def test_what_was_made_before_a_failure_is_undone(fresh_netns: Path) -> None:
    first = Network(type="veth", name="eth1", bridge="br1", address="10.2.0.2/24")
    route = Route(destination="10.3.0.0/16", interface_name="eth7")
    said = refused(Networks((first, ETH0), (route,)), fresh_netns)
    assert said == (
        "network interface eth7: route 10.3.0.0/16: the container has no such interface"
    )


def test_a_gateway_out_of_reach_is_refused(fresh_netns: Path) -> None:
    route = Route(destination="10.3.0.0/16", gateway="192.168.7.1")
    said = refused(Networks((ETH0,), (route,)), fresh_netns)
    assert "gateway 192.168.7.1 is not reachable" in said


def test_a_route_given_twice_is_refused(fresh_netns: Path) -> None:
    route = Route(gateway="10.1.0.1", interface_name="eth0")
    assert "route 10.1.0.1 exists already" in refused(Networks((ETH0,), (route,)), fresh_netns)


def test_a_source_that_is_not_the_containers_is_refused(fresh_netns: Path) -> None:
    route = Route(destination="10.3.0.0/16", source="10.7.0.1", interface_name="eth0")
    assert "cannot add route 10.3.0.0/16" in refused(Networks((ETH0,), (route,)), fresh_netns)


def test_disabled_ipv6_is_named(fresh_netns: Path) -> None:
    with in_netns(fresh_netns):
        run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    assert "IPv6 is disabled in the container's" in refused(Networks((ETH0,)), fresh_netns)


def test_a_namespace_that_is_not_there_is_named(room: Path) -> None:
    with pytest.raises(SetupFailed, match=r"enter network namespace .*/none: No such file"):
        setup(Networks((LOOPBACK,)), room / "none", "one")


def test_a_file_that_is_no_namespace_is_refused_and_the_thread_stays_where_it_is(
    room: Path,
) -> None:
    before = Path("/proc/thread-self/ns/net").readlink()
    (room / "file").touch()
    with pytest.raises(SetupFailed, match="enter network namespace"):
        setup(Networks((LOOPBACK,)), room / "file", "one")
    assert Path("/proc/thread-self/ns/net").readlink() == before


@pytest.mark.needs_nftables
def test_nftables_are_the_first_choice_for_criu_to_lock_the_network(room: Path) -> None:
    (room / "criu").write_bytes(b"\x7fELF\0libnftables.so.1\0")
    assert network_lock(room / "criu").name == "NFTABLES"


def captured(port: socket.socket) -> list[bytes]:
    port.settimeout(0.5)
    frames = []
    try:
        while True:
            frames.append(port.recv(2048))
    except TimeoutError:
        return frames


def listening(name: str, protocol: int) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    port.bind((name, protocol))
    return port


def test_every_ipv4_address_is_announced_in_both_forms_of_arp(fresh_netns: Path) -> None:
    setup(Networks((ETH0,)), fresh_netns, "one")
    with in_netns(fresh_netns):
        run("ip", "address", "add", "10.1.0.3/24", "dev", "eth0")
    with listening("br0", 0x0806) as port:
        announce(fresh_netns, copies=1)
        frames = captured(port)
    mac = bytes.fromhex("020000000002")
    seen = set()
    for frame in frames:
        assert frame[:14] == b"\xff" * 6 + mac + b"\x08\x06"
        assert frame[14:20] == struct.pack("!HHBB", 1, 0x0800, 6, 4)
        operation, sender, ip, _, target_ip = struct.unpack("!H6s4s6s4s", frame[20:42])
        assert sender == mac
        assert ip == target_ip
        seen.add((operation, socket.inet_ntoa(ip)))
    assert seen == {(op, ip) for op in (1, 2) for ip in ("10.1.0.2", "10.1.0.3")}


def test_neighbours_learn_the_announced_address(fresh_netns: Path) -> None:
    setup(Networks((ETH0,)), fresh_netns, "one")
    for address in ("10.1.0.2", "fd00:1::2"):
        wrong = ("lladdr", "02:00:00:00:00:99", "dev", "br0", "nud", "stale")
        run("ip", "neighbour", "replace", address, *wrong)
    assert announce(fresh_netns) >= 2
    deadline = time.monotonic() + 2
    while "02:00:00:00:00:99" in (shown := run("ip", "neighbour", "show", "dev", "br0")):
        assert time.monotonic() < deadline, shown
        time.sleep(0.01)
    for line in shown.splitlines():
        assert "02:00:00:00:00:02" in line


def test_announcing_takes_less_than_five_milliseconds(fresh_netns: Path) -> None:
    setup(Networks((ETH0,)), fresh_netns, "one")
    durations = []
    for _ in range(20):
        start = time.perf_counter()
        announce(fresh_netns)
        durations.append(time.perf_counter() - start)
    assert sorted(durations)[len(durations) // 2] < 0.005


def test_announcing_a_namespace_with_nothing_up_sends_nothing(fresh_netns: Path) -> None:
    assert announce(fresh_netns) == 0
