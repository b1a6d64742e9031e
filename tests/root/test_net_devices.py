"""Interfaces of the host in a container (linux.netDevices), by veths in a namespace of the test."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import NetworkError, SetupFailed
from runtime.checkpoint.dump import checkpoint
from runtime.checkpoint.options import CheckpointOptions
from runtime.errors import CheckpointFailed
from runtime.network import in_netns
from tests.containers import Box
from tests.network_hosts import network_host, run

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_busybox, pytest.mark.needs_veth]

SHOWN = "ip address show"


@pytest.fixture(autouse=True)
def host(name: str) -> Iterator[Path]:
    """We are in a namespace that plays the host, with an interface `one`."""
    with network_host(name) as path:
        run("ip", "link", "add", "one", "type", "veth", "peer", "other")
        run("ip", "link", "set", "one", "address", "00:11:22:33:44:55", "mtu", "1480", "up")
        run("ip", "address", "add", "169.254.169.77/32", "dev", "one")
        run("ip", "address", "add", "fd00:1::7/64", "dev", "one", "nodad")
        run("ip", "address", "add", "10.9.0.1/24", "scope", "link", "dev", "one")
        yield path


@pytest.fixture
def owned(name: str) -> Iterator[Path]:
    """A network namespace that was there before the container."""
    run("ip", "netns", "add", f"{name}-owned")
    yield Path(f"/run/netns/{name}-owned")
    run("ip", "netns", "delete", f"{name}-owned")


def joining(box: Box, path: Path) -> None:
    kinds = [each for each in box.bundle.spec["linux"]["namespaces"] if each["type"] != "network"]
    box.update(linux={"namespaces": [*kinds, {"type": "network", "path": str(path)}]})


def addresses(*where: str) -> set[str]:
    """The addresses of all interfaces but those that the kernel gives by itself."""
    links = json.loads(run("ip", *where, "-json", "address", "show"))
    return {
        f"{link['ifname']} {each['local']}/{each['prefixlen']}"
        for link in links
        for each in link["addr_info"]
        if each["scope"] != "link" or each["family"] == "inet"
    }


def test_an_interface_moves_in_with_its_global_addresses(box: Box) -> None:
    box.update(linux={"netDevices": {"one": {}}})
    out = box.shell(SHOWN).out
    assert "mtu 1480" in out
    assert "00:11:22:33:44:55" in out
    assert re.search(r"one[@:].*[<,]UP[,>]", out)
    assert "169.254.169.77/32" in out
    assert "fd00:1::7/64" in out
    assert "10.9.0.1" not in out


def test_it_has_another_name_inside_and_stays_in_a_namespace_of_somebodys(
    box: Box, owned: Path
) -> None:
    joining(box, owned)
    box.update(linux={"netDevices": {"one": {"name": "inside"}}})
    assert "inside" in box.shell(SHOWN).out
    with in_netns(owned):
        assert addresses() == {"inside 169.254.169.77/32", "inside fd00:1::7/64"}
    assert "one" not in run("ip", "link")


@pytest.mark.parametrize("own", [True, False])
def test_it_comes_back_when_the_container_cannot_be_created(
    box: Box, owned: Path, own: bool
) -> None:
    if not own:
        joining(box, owned)
    box.update(
        linux={"netDevices": {"one": {"name": "inside"}}},
        process={"args": ["/no/such/program"]},
    )
    with pytest.raises(SetupFailed, match="no such file"):
        box.create()
    assert addresses() == {"one 169.254.169.77/32", "one fd00:1::7/64"}
    assert ",UP" in run("ip", "link", "show", "one")


def test_one_that_cannot_move_is_named_and_the_others_come_back(box: Box) -> None:
    box.update(linux={"netDevices": {"one": {}, "none": {}}})
    with pytest.raises(NetworkError, match="none: link not found"):
        box.create()
    assert addresses() == {"one 169.254.169.77/32", "one fd00:1::7/64"}


def test_a_name_that_is_taken_inside_leaves_it_where_it_is(box: Box) -> None:
    box.update(linux={"netDevices": {"one": {"name": "lo"}}})
    with pytest.raises(NetworkError, match=r"one: the namespace .* has an interface of that name"):
        box.create()
    assert "one 169.254.169.77/32" in addresses()
    assert ",UP" in run("ip", "link", "show", "one")


def test_one_that_must_stay_keeps_its_routes_and_addresses(box: Box) -> None:
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "link", "set", "bridge", "up")
    run("ip", "address", "add", "10.8.0.1/24", "dev", "bridge")
    run("ip", "address", "add", "fd00:2::1/64", "dev", "bridge", "nodad")
    run("ip", "route", "add", "10.7.0.0/16", "via", "10.8.0.2")
    before = addresses(), run("ip", "route")
    box.update(linux={"netDevices": {"bridge": {}}})
    with pytest.raises(NetworkError, match="bridge: it cannot leave its network namespace"):
        box.create()
    assert (addresses(), run("ip", "route")) == before


@pytest.mark.needs_criu
def test_a_checkpoint_is_refused_where_the_interface_would_be_lost(
    box: Box, tmp_path: Path
) -> None:
    box.update(linux={"netDevices": {"one": {}}})
    container = box.start()
    with pytest.raises(CheckpointFailed, match=r"linux.netDevices: interfaces of this host"):
        checkpoint(container, CheckpointOptions(image_path=tmp_path / "images"))
