"""What a lab is planned to be: names, addresses, cables. Nothing is brought up."""

import pytest

from migrator.lab import network
from migrator.lab.errors import LabError
from migrator.lab.layout import plan


def test_every_node_has_an_address_a_port_and_a_cgroup_of_its_own() -> None:
    nodes = plan("x", 8).nodes
    for attribute in ("name", "address", "address_v6", "mac", "port", "cgroup", "directory"):
        assert len({getattr(node, attribute) for node in nodes}) == len(nodes)


def test_bridges_have_other_names_on_other_hosts() -> None:
    assert [host.interface for host in plan("x", 3).hosts] == ["br0", "br7", "br14"]


def test_interface_names_fit_the_kernel() -> None:
    assert all(len(node.port) <= 15 for node in plan("x", 8).nodes)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-rf", "x" * 33, "a b", "a\n"])
def test_names_that_are_no_directory_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="invalid lab name"):
        plan(name)


@pytest.mark.parametrize("count", [0, 9, -1])
def test_a_lab_has_at_least_one_host_and_not_too_many(count: int) -> None:
    with pytest.raises(LabError, match="1 to 8 hosts"):
        plan("x", count)


@pytest.mark.parametrize(
    ("rate", "bits"),
    [
        ("1gbit", 10**9),
        ("2.5Gbit", 25 * 10**8),
        ("100mbit", 10**8),
        ("64kbit", 64000),
        ("off", None),
    ],
)
def test_rates_are_read_as_tc_reads_them(rate: str, bits: int | None) -> None:
    assert network.rate_bits(rate) == bits


@pytest.mark.parametrize("rate", ["", "fast", "1", "0mbit", "-1mbit", "1gbit; reboot", "1gbit\nx"])
def test_other_rates_are_refused(rate: str) -> None:
    with pytest.raises(LabError, match="invalid bandwidth"):
        network.rate_bits(rate)


def test_a_shaped_link_lets_the_largest_segment_through_in_one_piece() -> None:
    (slow,), (fast,) = network.shape("x", "1mbit"), network.shape("x", "10gbit")
    assert "rate 1000000bit burst 65600 " in slow
    assert "rate 10000000000bit burst 1250000 limit 12500000" in fast


def test_only_hosts_have_a_bridge() -> None:
    layout = plan("x", 1)
    host, client = (network.node_commands(n) for n in (layout.hosts[0], layout.client))
    assert any("type bridge" in line for line in host)
    assert not any("bridge" in line for line in client)


def test_the_switch_has_a_cable_to_every_host_and_to_the_client() -> None:
    layout = plan("x", 2)
    pids = {node.name: number for number, node in enumerate(layout.nodes, 100)}
    lines = network.switch_commands(layout, pids)
    plugged = [line.split()[-1] for line in lines if "peer" in line]
    assert plugged == [str(pids[name]) for name in ("alpha", "beta", "client")]
