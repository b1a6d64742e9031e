"""Entries of a container's routing table, in the forms of libcontainer's Route (rtnetlink(7))."""

from __future__ import annotations

import errno
import socket
from typing import Any

from runtime.errors import NetworkError
from runtime.network import rtnetlink
from runtime.network.models import Network, Route

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_SCOPE_LINK = 253  # RT_SCOPE_LINK of linux/rtnetlink.h


def add_gateways(inside: Any, network: Network) -> None:
    """The default routes that the gateways of *network* stand for."""
    for gateway in filter(None, (network.gateway, network.ipv6_gateway)):
        add(inside, Route(gateway=gateway, interface_name=network.name))


def add(inside: Any, route: Route) -> dict[str, Any]:
    """Add *route*; returns what remove() takes. Raises NetworkError."""
    request = _request(inside, route)
    ifname = route.interface_name or route.title
    remedies = {
        errno.EEXIST: f"{route.title} exists already",
        errno.ENETUNREACH: f"{route.title}: gateway {route.gateway} is not reachable: "
        "give a route to it first",
    }
    with rtnetlink.failing_as(ifname, f"add {route.title}", remedies=remedies):
        inside.route("add", **request)
    return request


def remove(inside: Any, request: dict[str, Any]) -> None:
    """Take back what add() did; it may be gone with its interface. Raises NetworkError."""
    with rtnetlink.failing_as(request["dst"], "remove the route", unless=(errno.ESRCH,)):
        inside.route("del", **request)


def _request(inside: Any, route: Route) -> dict[str, Any]:
    request: dict[str, Any] = {
        "family": _FAMILIES[route.version],
        "dst": route.destination or "default",
    }
    if route.gateway:
        request["gateway"] = route.gateway
    else:
        request["scope"] = _SCOPE_LINK
    if route.source:
        request["prefsrc"] = route.source.partition("/")[0]
    if route.interface_name:
        index = rtnetlink.index_in(inside, route.interface_name)
        if index is None:
            raise NetworkError(
                route.interface_name, f"{route.title}: the container has no such interface"
            )
        request["oif"] = index
    return request
