"""What a network namespace holds, in words that can be compared."""

from __future__ import annotations

import socket
from typing import Any

from runtime.network import rtnetlink
from runtime.network.netns import Netns

_RT_TABLE_MAIN = 254  # linux/rtnetlink.h
_RTN_UNICAST = 1
_RTPROT_KERNEL = 2
_DEFAULTS = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}


def describe(netns: Netns) -> dict[str, Any]:
    """Interfaces, addresses and routes of *netns*, in libcontainer's words where it has one.

    JSON types only. Routes that the kernel makes by itself (of addresses) are left out.
    """
    with rtnetlink.connect(netns) as inside:
        links = {link["index"]: link for link in inside.get_links()}
        addresses = list(inside.get_addr())
        routes = [
            _route(route, links)
            for route in inside.get_routes(table=_RT_TABLE_MAIN, type=_RTN_UNICAST)
            if route["proto"] != _RTPROT_KERNEL
        ]
    interfaces = [_interface(link, addresses) for link in links.values()]
    return {"interfaces": interfaces, "routes": routes}


def _interface(link: Any, addresses: list[Any]) -> dict[str, Any]:
    return {
        "name": link.get("ifname"),
        "kind": link.get(("linkinfo", "kind")) or "",
        "mac_address": link.get("address") or "",
        "mtu": link.get("mtu"),
        "txqueuelen": link.get("txqlen"),
        "up": link.get("state") == "up",
        "addresses": [
            f"{address.get('address')}/{address['prefixlen']}"
            for address in addresses
            if address["index"] == link["index"]
        ],
    }


def _route(route: Any, links: dict[int, Any]) -> dict[str, Any]:
    destination = route.get("dst")
    link = links.get(route.get("oif"))
    found = {
        "destination": f"{destination}/{route['dst_len']}"
        if destination
        else _DEFAULTS[route["family"]],
        "source": route.get("prefsrc"),
        "gateway": route.get("gateway"),
        "interface_name": link.get("ifname") if link else None,
    }
    return {field: value for field, value in found.items() if value}
