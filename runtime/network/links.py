"""Making and removing a container's interfaces: loopback and veth pairs on a bridge (veth(4)).

The container end is made inside the container's namespace at once, never on the host first, so no
name can clash there. What fails is undone: no host end is left, and the error names the interface.
"""

from __future__ import annotations

import errno
import hashlib
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from runtime.errors import NetworkError
from runtime.network import devices, routes, rtnetlink
from runtime.network.models import LOOPBACK, LOOPBACK_NAME, Network, Networks
from runtime.network.netns import Netns, in_netns, path_of
from runtime.undo import Undo

_NODAD = 0x02  # IFA_F_NODAD of linux/if_addr.h
_CLEANUP_S = 0.15
_CLEANUP_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class HostEnd:
    """The end of a veth pair that is on the host."""

    name: str
    index: int


def setup(networks: Networks, netns: Netns, container_id: str) -> list[HostEnd]:
    """Make every interface and route of *networks* in *netns*; the host ends are in our namespace.

    Raises NetworkError; nothing of what was asked for is then there.
    """
    if any(network.type == LOOPBACK for network in networks.networks):
        _bring_up_loopback(netns)
    if not (networks.veths or networks.routes):
        return []
    for network in networks.veths:
        _check_host(network, container_id)
    with ExitStack() as sockets, Undo() as undo:
        host = sockets.enter_context(rtnetlink.connect())
        inside = sockets.enter_context(rtnetlink.connect(netns))
        ends = []
        for network in networks.veths:
            ends.append(_make_pair(host, inside, network, netns, container_id))
            undo.on_error(_remove, host, ends[-1].name)
            _configure(host, inside, network, ends[-1], container_id)
        for network in networks.veths:
            routes.add_gateways(inside, network)
        for route in networks.routes:
            undo.on_error(routes.remove, inside, routes.add(inside, route))
    return ends


def make_ahead(networks: Networks, container_id: str) -> dict[str, str]:
    """Make the pairs with both ends in our namespace, the container's for CRIU to move.

    In a user namespace CRIU cannot make them: who acts there may not reach ours (criu/net.c).
    Returns the container's name of each -> its name here. Raises NetworkError; `teardown` removes
    what has been made.
    """
    names = {}
    with rtnetlink.connect() as host:
        for network in networks.veths:
            _check_host(network, container_id)
            name = network.host_end(container_id)
            names[network.name] = inner = f"mi{host_mac(name).hex()[2:]}"
            with rtnetlink.failing_as(network.name, "create it"):
                alias = label(container_id)
                host.link("add", ifname=name, kind="veth", ifalias=alias, peer={"ifname": inner})
            devices.bring_up(name)
    return names


def adopt(networks: Networks, container_id: str) -> list[HostEnd]:
    """Give host ends what a restore by CRIU has not: bridge, address, label, MTU, hairpin."""
    if not networks.veths:
        return []
    with rtnetlink.connect() as host:
        ends = [_found(network, container_id) for network in networks.veths]
        for network, end in zip(networks.veths, ends, strict=True):
            with rtnetlink.failing_as(end.name, "configure it"):
                attributes = _both_ends(network, mtu=network.mtu)
                host.link(
                    "set",
                    index=end.index,
                    master=devices.index_of(network.bridge),
                    address=host_mac(end.name).hex(":"),
                    ifalias=label(container_id),
                    **attributes,
                )
            _set_hairpin(host, network, end)
    return ends


def teardown(networks: Networks, container_id: str) -> None:
    """Remove the host ends, and the container ends with them; those already gone are no error.

    An interface of the same name that is not this container's is left alone.
    """
    names = [network.host_end(container_id) for network in networks.veths]
    remaining = _left_by_kernel([name for name in names if devices.driver_of(name) == "veth"])
    if not remaining:
        return
    with rtnetlink.connect() as host:
        for name in remaining:
            if _label_of(host, name) in (None, label(container_id)):
                _remove(host, name)


def _left_by_kernel(names: list[str]) -> list[str]:
    """Those of *names* that do not go by themselves within a moment.

    A namespace that ends takes its veths along, 10 ms later (cleanup_net() in
    net/core/net_namespace.c): most often nothing is to be done, and pyroute2 need not be loaded.
    """
    deadline = time.monotonic() + _CLEANUP_S
    while names and time.monotonic() < deadline:
        time.sleep(_CLEANUP_POLL_S)
        names = [name for name in names if devices.link_exists(name)]
    return names


def _bring_up_loopback(netns: Netns) -> None:
    with in_netns(netns):
        try:
            devices.bring_up(LOOPBACK_NAME)
        except OSError as exc:
            raise NetworkError(LOOPBACK_NAME, f"cannot bring it up: {exc.strerror}") from exc


def _check_host(network: Network, container_id: str) -> None:
    if not devices.link_exists(network.bridge):
        raise NetworkError(
            network.name,
            f"bridge {network.bridge} does not exist on this host: "
            f"create it or give --network ...,bridge=NAME",
        )
    if not devices.bridge_exists(network.bridge):
        raise NetworkError(network.name, f"{network.bridge} is not a bridge")
    name = network.host_end(container_id)
    if devices.link_exists(name):
        raise NetworkError(
            network.name,
            f"its host end {name} exists already on this host: remove that interface "
            "or give --network ...,host_interface_name=NAME",
        )


def _make_pair(
    host: Any, inside: Any, network: Network, netns: Netns, container_id: str
) -> HostEnd:
    """One request makes both ends, the host's already on the bridge."""
    if rtnetlink.index_in(inside, network.name) is not None:
        raise NetworkError(network.name, "exists already in the container's network namespace")
    name = network.host_end(container_id)
    with rtnetlink.failing_as(network.bridge, "read its index"):
        bridge = host.link("get", ifname=network.bridge)[0]
    attributes = _both_ends(network, mtu=network.mtu or bridge.get("mtu"))
    peer = {"ifname": network.name, **attributes}
    if network.mac_address:
        peer["address"] = network.mac_address
    with open(path_of(netns), "rb") as namespace, rtnetlink.failing_as(network.name, "create it"):
        host.link(
            "add",
            ifname=name,
            kind="veth",
            master=bridge["index"],
            address=host_mac(name).hex(":"),
            peer=peer | {"net_ns_fd": namespace.fileno()},
            **attributes,
        )
    index = devices.index_of(name)
    assert index is not None
    return HostEnd(name, index)


def _both_ends(network: Network, *, mtu: int) -> dict[str, int]:
    attributes = {"mtu": mtu, "txqlen": network.txqueuelen}
    return {name: value for name, value in attributes.items() if value}


def _configure(host: Any, inside: Any, network: Network, end: HostEnd, container_id: str) -> None:
    with rtnetlink.failing_as(network.name, f"bring up its host end {end.name}"):
        host.link("set", index=end.index, ifalias=label(container_id), state="up")
    _set_hairpin(host, network, end)
    index = rtnetlink.index_in(inside, network.name)
    for address in filter(None, (network.address, network.ipv6_address)):
        _add_address(inside, index, network, address)
    with rtnetlink.failing_as(network.name, "bring it up"):
        inside.link("set", index=index, state="up")


def _add_address(inside: Any, index: int | None, network: Network, address: str) -> None:
    """Without duplicate address detection: an address is usable at once, or after a second."""
    ip, _, length = address.partition("/")
    disabled = f"cannot add {address}: IPv6 is disabled in the container's network namespace"
    remedies = {errno.EACCES: disabled}
    with rtnetlink.failing_as(network.name, f"add address {address}", remedies=remedies):
        flags = {"flags": _NODAD} if ":" in ip else {}
        inside.addr("add", index=index, address=ip, prefixlen=int(length), **flags)


def _set_hairpin(host: Any, network: Network, end: HostEnd) -> None:
    if network.hairpin_mode:
        with rtnetlink.failing_as(network.name, f"set hairpin mode of {end.name}"):
            host.brport("set", index=end.index, mode=1)


def _found(network: Network, container_id: str) -> HostEnd:
    name = network.host_end(container_id)
    index = devices.index_of(name)
    if index is None:
        raise NetworkError(network.name, f"its host end {name} does not exist")
    return HostEnd(name, index)


def _remove(host: Any, name: str) -> None:
    """The kernel may do it at the same time, when the container's namespace ends."""
    index = devices.index_of(name)
    if index is not None:
        with rtnetlink.failing_as(name, "remove it", unless=(errno.ENODEV,)):
            host.link("del", index=index)


def host_mac(name: str) -> bytes:
    """A bridge without an address of its own takes its ports' lowest: this one is never that."""
    return b"\xfe" + hashlib.sha256(name.encode()).digest()[:5]


def label(container_id: str) -> str:
    """The interface's alias, as `ip link` shows it: whose it is."""
    return f"migrator {container_id}"[:255]


def _label_of(host: Any, name: str) -> str | None:
    """None where it has none, and where the kernel has just removed it."""
    links: list[Any] = []
    with rtnetlink.failing_as(name, "read its alias", unless=(errno.ENODEV,)):
        links = host.link("get", ifname=name)
    return links[0].get("ifalias") if links else None
