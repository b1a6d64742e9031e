"""The network of one container: interfaces, routes, announcement (network_namespaces(7)).

Models are libcontainer's Network and Route; only this package speaks rtnetlink. Names are loaded
when they are first used: pyroute2 costs more than all the rest of a command.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.network.announcement import announce
    from runtime.network.devices import bridge_exists, link_exists
    from runtime.network.isolation import isolate, reconnect
    from runtime.network.links import HostEnd, adopt, setup, teardown
    from runtime.network.lock import network_lock
    from runtime.network.models import Network, Networks, Route
    from runtime.network.netns import Netns, in_netns
    from runtime.network.parse import combine, parse_network, parse_route, read_file

__all__ = [
    "HostEnd",
    "Netns",
    "Network",
    "Networks",
    "Route",
    "adopt",
    "announce",
    "bridge_exists",
    "combine",
    "in_netns",
    "isolate",
    "link_exists",
    "network_lock",
    "parse_network",
    "parse_route",
    "read_file",
    "reconnect",
    "setup",
    "teardown",
]

_MODULES = {
    "announcement": ("announce",),
    "devices": ("bridge_exists", "link_exists"),
    "isolation": ("isolate", "reconnect"),
    "links": ("HostEnd", "adopt", "setup", "teardown"),
    "lock": ("network_lock",),
    "models": ("Network", "Networks", "Route"),
    "netns": ("Netns", "in_netns"),
    "parse": ("combine", "parse_network", "parse_route", "read_file"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
