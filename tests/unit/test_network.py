"""Networks and routes as they are given: what is taken, and how what is refused is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import InvalidNetwork
from runtime.network import (
    Network,
    Networks,
    Route,
    combine,
    network_lock,
    parse_network,
    parse_route,
    read_file,
)

ETH0: dict[str, Any] = {"type": "veth", "name": "eth0", "bridge": "br0"}


def refusal(**fields: Any) -> str:
    with pytest.raises(InvalidNetwork) as caught:
        Network.from_json(ETH0 | fields)
    return str(caught.value)


def route_refusal(**fields: Any) -> str:
    with pytest.raises(InvalidNetwork) as caught:
        Route.from_json(fields)
    return str(caught.value)


def test_a_network_is_read_from_the_command_line() -> None:
    text = (
        "type=veth,name=eth0,bridge=br0,address=10.1.0.2/24,gateway=10.1.0.1,mac=02:00:00:00:00:02,"
        "mtu=1400,txqueuelen=100,ipv6_address=fd00::2/64,ipv6_gateway=fd00::1,"
        "host_interface_name=veth7,hairpin_mode=true"
    )
    assert parse_network(text) == Network(
        type="veth",
        name="eth0",
        bridge="br0",
        address="10.1.0.2/24",
        gateway="10.1.0.1",
        mac_address="02:00:00:00:00:02",
        mtu=1400,
        txqueuelen=100,
        ipv6_address="fd00::2/64",
        ipv6_gateway="fd00::1",
        host_interface_name="veth7",
        hairpin_mode=True,
    )


def test_a_lone_first_word_is_the_type() -> None:
    assert parse_network("loopback") == Network(type="loopback")
    assert parse_network("veth,name=eth0,bridge=br0") == Network(**ETH0)


@pytest.mark.parametrize(
    ("given", "value"),
    [("hairpin_mode", True), ("hairpin_mode=true", True), ("hairpin_mode=false", False)],
)
def test_a_boolean_may_stand_alone(given: str, value: bool) -> None:
    assert parse_network(f"veth,name=eth0,bridge=br0,{given}").hairpin_mode is value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "network: type '' is not veth or loopback"),
        ("tap,name=eth0", "network eth0: type 'tap' is not veth or loopback"),
        ("veth,name=eth0,bridge=br0,mut=9", "--network: mut '9' is unknown: type, name, bridge"),
        ("veth,name=eth0,bridge=br0,mtu=big", "--network: mtu 'big' is not a number"),
        ("veth,name=eth0,bridge=br0,mtu=-1", "--network: mtu '-1' is not a number"),
        ("veth,name=eth0,bridge=br0,mtu", "--network: mtu has no value: write mtu=..."),
        ("veth,name=a,name=b,bridge=br0", "--network: name 'b' is given twice"),
        ("veth,name=eth0,bridge=br0,hairpin_mode=1", "--network: hairpin_mode '1' is not true"),
        ("name=eth0,bridge=br0", "--network: type is missing: veth or loopback"),
    ],
)
def test_a_network_option_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidNetwork) as caught:
        parse_network(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "a" * 16, "é" * 8, ".", "..", "a/b", "a:1", "eth%d", "a b", "a\tb", "lo", "a\0b"]
)
def test_names_that_the_kernel_refuses_are_refused(name: str) -> None:
    assert f"name {name!r}" in refusal(name=name)


@pytest.mark.parametrize("name", ["e", "a" * 15, "eth-0.7", "é" * 7])
def test_names_that_the_kernel_takes_are_taken(name: str) -> None:
    assert Network.from_json(ETH0 | {"name": name}).name == name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bridge": ""}, "network eth0: bridge '' is empty"),
        ({"host_interface_name": "x" * 16}, "network eth0: host_interface_name 'xxxxxxxxxxxxxxxx'"),
        ({"mac_address": "02:00"}, "mac_address '02:00' is not of the form"),
        ({"mac_address": "01:00:00:00:00:01"}, "is a multicast address"),
        ({"mac_address": "00:00:00:00:00:00"}, "is the null address"),
        ({"address": "10.1.0.2"}, "address '10.1.0.2' has no prefix length, as in 10.1.0.2/24"),
        ({"address": "10.1.0.2/33"}, "has a prefix length that is not between 0 and 32"),
        ({"address": "10.1.0.2/255.255.255.0"}, "has no prefix length"),
        ({"address": "10.1.0.300/24"}, "is no address"),
        ({"address": "fd00::2/64"}, "address 'fd00::2/64' is not an IPv4 address"),
        ({"address": "10.1.0.0/24"}, "is the address of the network 10.1.0.0/24 itself"),
        ({"address": "10.1.0.255/24"}, "is the broadcast address"),
        ({"address": "127.0.0.1/8"}, "is not the address of a host"),
        ({"address": "224.0.0.1/8"}, "is not the address of a host"),
        ({"ipv6_address": "10.1.0.2/24"}, "is not an IPv6 address"),
        ({"ipv6_address": "fd00::2"}, "as in fd00:1::2/64"),
        ({"ipv6_address": "fe80::1%eth0/64"}, "has a zone"),
        ({"gateway": "10.1.0.1"}, "gateway '10.1.0.1' cannot be reached without address"),
        (
            {"address": "10.1.0.2/24", "gateway": "10.2.0.1"},
            "gateway '10.2.0.1' is not in 10.1.0.0/24",
        ),
        ({"address": "10.1.0.2/24", "gateway": "10.1.0.2"}, "is the container's own address"),
        ({"address": "10.1.0.2/24", "gateway": "fd00::1"}, "gateway 'fd00::1' is not an IPv4"),
        ({"ipv6_address": "fd00::2/64", "ipv6_gateway": "fd01::1"}, "is not in fd00::/64"),
        ({"mtu": 67}, "mtu 67 is not between 68 and 65535"),
        ({"mtu": 65536}, "mtu 65536 is not between"),
        ({"mtu": 1279, "ipv6_address": "fd00::2/64"}, "1280 and 65535 with an IPv6 address"),
        ({"txqueuelen": -1}, "txqueuelen -1 is not between"),
        ({"mtu": "1500"}, "network: mtu '1500' is not a number"),
        ({"mtu": True}, "network: mtu True is not a number"),
        ({"hairpin_mode": 1}, "hairpin_mode 1 is not true or false"),
        ({"name": None}, "network: name is not a string"),
        ({"vlan": 3}, "network: vlan 3 is unknown"),
    ],
)
def test_a_field_that_cannot_be_used_is_named_with_its_value(
    fields: dict[str, Any], message: str
) -> None:
    assert message in refusal(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"address": "10.1.0.2/31", "gateway": "10.1.0.3"},
        {"address": "10.1.0.2/32"},
        {"address": "10.1.1.0/16"},
        {"ipv6_address": "fd00::2/64", "ipv6_gateway": "fe80::1"},
        {"ipv6_address": "fd00::2/128"},
    ],
)
def test_unusual_addresses_are_taken(fields: dict[str, Any]) -> None:
    assert Network.from_json(ETH0 | fields).to_json() == ETH0 | fields


def test_a_loopback_has_no_fields_but_its_name() -> None:
    assert Network.from_json({"type": "loopback", "name": "lo"}).name == "lo"
    with pytest.raises(InvalidNetwork, match="network loopback: mtu 1500 does not apply"):
        Network.from_json({"type": "loopback", "mtu": 1500})


def test_the_json_of_a_network_gives_the_network_again() -> None:
    network = parse_network("veth,name=eth0,bridge=br0,address=10.1.0.2/24,hairpin_mode")
    assert Network.from_json(json.loads(json.dumps(network.to_json()))) == network


def test_the_default_host_end_is_a_valid_name_of_this_pair_alone() -> None:
    first, second = Network(**ETH0), Network(**ETH0 | {"name": "eth1"})
    names = {n.host_end(c) for n in (first, second) for c in ("one", "two")}
    assert len(names) == 4
    assert all(name.startswith("mv") and len(name) <= 15 for name in names)


def test_a_given_host_end_is_kept() -> None:
    assert Network(**ETH0, host_interface_name="veth7").host_end("any") == "veth7"


@pytest.mark.parametrize(
    "fields",
    [
        {"destination": "10.2.0.0/16", "gateway": "10.1.0.1"},
        {"destination": "10.2.0.0/16", "interface_name": "eth0"},
        {"gateway": "10.1.0.1"},
        {"gateway": "fd00::1", "interface_name": "eth0"},
        {"source": "10.1.0.2/24", "interface_name": "eth0"},
        {"destination": "0.0.0.0/0", "source": "10.1.0.2", "gateway": "10.1.0.1"},
        {"destination": "::/0", "gateway": "fe80::1", "interface_name": "eth0"},
    ],
)
def test_every_form_of_a_route_is_taken(fields: dict[str, str]) -> None:
    assert Route.from_json(fields).to_json() == fields


def test_a_route_is_read_from_the_command_line() -> None:
    text = "destination=10.2.0.0/16,gateway=10.1.0.1,interface_name=eth0,source=10.1.0.2"
    assert parse_route(text) == Route(
        destination="10.2.0.0/16", gateway="10.1.0.1", interface_name="eth0", source="10.1.0.2"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "route: destination is missing"),
        ({"interface_name": "eth0"}, "route eth0: destination is missing"),
        ({"destination": "10.2.0.0/16"}, "interface_name is needed by a route without"),
        ({"destination": "10.2.0.0", "gateway": "10.1.0.1"}, "is no network with a prefix length"),
        ({"destination": "10.2.0.1/16", "gateway": "10.1.0.1"}, "the network is 10.2.0.0/16"),
        ({"destination": "10.2.0.0/33", "gateway": "10.1.0.1"}, "is no network"),
        ({"destination": "10.2.0.0/16", "gateway": "fd00::1"}, "destination IPv4, gateway IPv6"),
        ({"gateway": "10.1.0.1/24"}, "gateway '10.1.0.1/24' is no address"),
        ({"source": "10.1.0.2/99", "gateway": "10.1.0.1"}, "prefix length that is not between"),
        ({"gateway": "10.1.0.1", "interface_name": "a b"}, "interface_name 'a b'"),
        ({"gateway": "10.1.0.1", "metric": "3"}, "route: metric '3' is unknown"),
    ],
)
def test_a_route_that_cannot_be_made_is_refused(fields: dict[str, str], message: str) -> None:
    assert message in route_refusal(**fields)


def test_networks_of_a_file_come_before_those_of_the_options(tmp_path: Path) -> None:
    file = tmp_path / "network.json"
    file.write_text(json.dumps({"networks": [ETH0], "routes": [{"gateway": "10.1.0.1"}]}))
    found = combine(["veth,name=eth1,bridge=br1"], ["gateway=10.1.0.9"], file)
    assert [network.name for network in found.networks] == ["eth0", "eth1"]
    assert [route.gateway for route in found.routes] == ["10.1.0.1", "10.1.0.9"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object"),
        ('{"networks": {}, "routes": 3}', "routes 3 is not a list"),
        ('{"networks": [3]}', "networks[0]: 3 is not an object"),
        ('{"networks": [], "rutes": []}', "rutes [] is unknown"),
        ('{"routes": [{"gateway": 7}]}', "routes[0]: gateway 7 is not a string"),
    ],
)
def test_a_network_file_that_cannot_be_used_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "network.json"
    file.write_text(text)
    with pytest.raises(InvalidNetwork) as caught:
        read_file(file)
    assert message in str(caught.value)


def test_a_network_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidNetwork, match=r"none\.json' No such file"):
        read_file(tmp_path / "none.json")


def test_null_lists_as_libcontainer_writes_them_are_empty() -> None:
    assert not Networks.from_json({"networks": None, "routes": None})


@pytest.mark.parametrize(
    "second",
    [
        {"name": "eth0"},
        {"name": "eth1", "mac_address": "02:00:00:00:00:AA"},
        {"name": "eth1", "address": "10.1.0.2/16"},
        {"name": "eth1", "ipv6_address": "fd00:0::2/64"},
        {"name": "eth1", "host_interface_name": "veth7"},
    ],
)
def test_two_networks_share_nothing_that_must_be_unique(second: dict[str, Any]) -> None:
    first = Network(
        **ETH0,
        mac_address="02:00:00:00:00:aa",
        address="10.1.0.2/24",
        ipv6_address="fd00::2/64",
        host_interface_name="veth7",
    )
    with pytest.raises(InvalidNetwork, match="is that of network eth0 too"):
        Networks((first, Network(type="veth", bridge="br0", **second)))


def test_the_loopback_is_given_once() -> None:
    with pytest.raises(InvalidNetwork, match="is given twice"):
        Networks((Network(type="loopback"), Network(type="loopback", name="lo")))


def test_complete_networks_have_a_loopback_and_named_host_ends() -> None:
    networks = Networks((Network(**ETH0),))
    completed = networks.complete("one")
    assert [network.type for network in completed.networks] == ["loopback", "veth"]
    assert completed.veths[0].host_interface_name == Network(**ETH0).host_end("one")
    assert completed.complete("two") == completed
    assert Networks.from_json(completed.to_json()) == completed


def test_a_network_can_be_moved_to_another_bridge() -> None:
    assert replace(Network(**ETH0), bridge="br7").bridge == "br7"


def test_the_network_lock_is_chosen_by_what_the_host_has(tmp_path: Path) -> None:
    criu = tmp_path / "criu"
    criu.write_bytes(b"\x7fELF")
    assert network_lock(criu, path=str(tmp_path)).name == "SKIP"
    for program in ("iptables-restore", "ip6tables-restore"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    assert network_lock(criu, path=str(tmp_path)).name == "IPTABLES"
