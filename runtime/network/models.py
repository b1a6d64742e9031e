"""libcontainer's Network and Route, and the list of both that a container has.

An object of these classes is valid: all checks are made when it is built, and raise InvalidNetwork.
Fields have the names of libcontainer's JSON; an empty string or a 0 is a field that is not given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from runtime.errors import InvalidNetwork
from runtime.network import checks

if TYPE_CHECKING:
    from runtime.state import State

LOOPBACK = "loopback"
VETH = "veth"
LOOPBACK_NAME = "lo"

_T = TypeVar("_T")
_TYPE_NAMES = {"str": "a string", "int": "a number", "bool": "true or false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One interface of a container: its loopback, or a veth pair whose host end is on a bridge."""

    type: str
    #: of the container end
    name: str = ""
    bridge: str = ""
    mac_address: str = ""
    #: with prefix length, as ipv6_address
    address: str = ""
    #: becomes the default route, as ipv6_gateway
    gateway: str = ""
    ipv6_address: str = ""
    ipv6_gateway: str = ""
    #: of both ends; 0 is the bridge's
    mtu: int = 0
    #: of both ends; 0 is the kernel's default
    txqueuelen: int = 0
    host_interface_name: str = ""
    #: the bridge may send a packet back to this container, on the port that it came from
    hairpin_mode: bool = False

    def __post_init__(self) -> None:
        if self.type == LOOPBACK:
            self._check_loopback()
        elif self.type == VETH:
            self._check_veth()
        else:
            raise InvalidNetwork(self.title, "type", self.type, f"is not {VETH} or {LOOPBACK}")

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"network {self.name or self.type}".rstrip()

    def host_end(self, container_id: str) -> str:
        """Name of the host's interface: the given one, else one that only this pair has."""
        digest = hashlib.sha256(f"{container_id}/{self.name}".encode()).hexdigest()
        return self.host_interface_name or f"mv{digest[:8]}"

    def to_json(self) -> dict[str, Any]:
        """libcontainer's JSON object, without the fields that are not given."""
        return _given(self)

    @classmethod
    def from_json(cls, data: object, *, where: str = "network") -> Self:
        """The network of a JSON object; unknown fields are refused."""
        values = _fields_of(cls, data, where)
        if "type" not in values:
            raise InvalidNetwork(where, "type", None, f"is missing: {VETH} or {LOOPBACK}")
        return cls(**values)

    def _check_loopback(self) -> None:
        for field, value in _given(self).items():
            if field == "type" or (field, value) == ("name", LOOPBACK_NAME):
                continue
            raise InvalidNetwork(self.title, field, value, "does not apply to the loopback")

    def _check_veth(self) -> None:
        self._check("name", checks.interface_name)
        if self.name == LOOPBACK_NAME:
            raise InvalidNetwork(self.title, "name", self.name, "is the loopback's")
        self._check("bridge", checks.interface_name)
        if self.host_interface_name:
            self._check("host_interface_name", checks.interface_name)
        if self.mac_address:
            self._check("mac_address", checks.mac)
        self._check_family("address", "gateway", checks.IPV4)
        self._check_family("ipv6_address", "ipv6_gateway", checks.IPV6)
        if self.mtu:
            self._check("mtu", lambda mtu: checks.mtu(mtu, carries_ipv6=bool(self.ipv6_address)))
        if self.txqueuelen:
            self._check("txqueuelen", checks.txqueuelen)

    def _check_family(self, address_field: str, gateway_field: str, version: int) -> None:
        address = gateway = None
        if getattr(self, address_field):
            address = self._check(address_field, lambda text: checks.address(text, version))
        if getattr(self, gateway_field):
            gateway = self._check(gateway_field, lambda text: checks.ip(text, version))
        if gateway is None:
            return
        if address is None:
            why = f"cannot be reached without {address_field}"
        elif gateway == address.ip:
            why = f"is the container's own {address_field}"
        elif gateway not in address.network and not gateway.is_link_local:
            why = f"is not in {address.network}: give it as a route, after a route to itself"
        else:
            return
        raise InvalidNetwork(self.title, gateway_field, str(gateway), why)

    def _check(self, field: str, check: Callable[[Any], _T]) -> _T:
        return _checked(self.title, field, getattr(self, field), check)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One entry of the container's routing table; what is not given is the family's default."""

    #: network with prefix length
    destination: str = ""
    #: the address that packets on this route get as their source; a prefix length is ignored
    source: str = ""
    gateway: str = ""
    #: of the container; may be left out where the gateway tells it
    interface_name: str = ""

    def __post_init__(self) -> None:
        found = {
            field: _checked(self.title, field, getattr(self, field), check).version
            for field, check in _ROUTE_CHECKS.items()
            if getattr(self, field)
        }
        if not found:
            why = "is missing: a route has a destination, a source or a gateway"
            raise InvalidNetwork(self.title, "destination", None, why)
        if self.interface_name:
            _checked(self.title, "interface_name", self.interface_name, checks.interface_name)
        elif not self.gateway:
            why = "is needed by a route without a gateway"
            raise InvalidNetwork(self.title, "interface_name", None, why)
        if len(set(found.values())) > 1:
            mix = ", ".join(f"{field} IPv{version}" for field, version in found.items())
            raise InvalidNetwork(self.title, *self._first, f"mixes address families: {mix}")

    @property
    def title(self) -> str:
        """How messages call it."""
        value = self.destination or self.gateway or self.source or self.interface_name
        return f"route {value}" if value else "route"

    @property
    def _first(self) -> tuple[str, str]:
        field = next(field for field in _ROUTE_CHECKS if getattr(self, field))
        return field, getattr(self, field)

    @property
    def version(self) -> int:
        """4 or 6."""
        field, value = self._first
        return _ROUTE_CHECKS[field](value).version

    def to_json(self) -> dict[str, Any]:
        """libcontainer's JSON object, without the fields that are not given."""
        return _given(self)

    @classmethod
    def from_json(cls, data: object, *, where: str = "route") -> Self:
        """The route of a JSON object; unknown fields are refused."""
        return cls(**_fields_of(cls, data, where))


_ROUTE_CHECKS: Mapping[str, Callable[[str], checks.Address | checks.Prefix]] = {
    "destination": checks.prefix,
    "source": checks.source,
    "gateway": checks.any_ip,
}


@dataclass(frozen=True, slots=True)
class Networks:
    """All interfaces and routes of one container, in the order in which they are made."""

    networks: tuple[Network, ...] = ()
    routes: tuple[Route, ...] = ()

    def __post_init__(self) -> None:
        for field, identity in _UNIQUE.items():
            _check_unique(self.networks, field, identity)
        if sum(network.type == LOOPBACK for network in self.networks) > 1:
            raise InvalidNetwork("network loopback", "type", LOOPBACK, "is given twice")

    def __bool__(self) -> bool:
        return bool(self.networks or self.routes)

    @property
    def veths(self) -> tuple[Network, ...]:
        """The networks that have an end on the host."""
        return tuple(network for network in self.networks if network.type == VETH)

    def complete(self, container_id: str) -> Networks:
        """The same with host ends named and the loopback in it: what a container's state keeps."""
        named = tuple(
            replace(network, host_interface_name=network.host_end(container_id))
            if network.type == VETH
            else network
            for network in self.networks
        )
        has_loopback = len(self.veths) < len(self.networks)
        loopback = () if has_loopback else (Network(type=LOOPBACK),)
        return Networks(loopback + named, self.routes)

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """The object that from_json takes."""
        return {
            "networks": [network.to_json() for network in self.networks],
            "routes": [route.to_json() for route in self.routes],
        }

    @classmethod
    def of(cls, state: State) -> Self:
        """Those that the state of a container keeps."""
        return cls.from_json({"networks": state.networks, "routes": state.routes})

    @classmethod
    def from_json(cls, data: object, *, where: str = "networks") -> Self:
        """Networks of `{"networks": [...], "routes": [...]}`; either may be missing."""
        if not isinstance(data, dict):
            raise InvalidNetwork(where, "", data, 'is not an object {"networks": [...], ...}')
        for field in data.keys() - {"networks", "routes"}:
            raise InvalidNetwork(
                where, field, data[field], "is unknown: there are networks, routes"
            )
        networks = _items(data, "networks", where)
        routes = _items(data, "routes", where)
        return cls(
            tuple(Network.from_json(n, where=f"networks[{i}]") for i, n in enumerate(networks)),
            tuple(Route.from_json(r, where=f"routes[{i}]") for i, r in enumerate(routes)),
        )


def _checked(title: str, field: str, value: Any, check: Callable[[Any], _T]) -> _T:
    try:
        return check(value)
    except ValueError as exc:
        raise InvalidNetwork(title, field, value, str(exc)) from None


_UNIQUE: Mapping[str, Callable[[str], object]] = {
    "name": str,
    "host_interface_name": str,
    "mac_address": str.lower,
    "address": checks.any_host,
    "ipv6_address": checks.any_host,
}


def _check_unique(
    networks: tuple[Network, ...], field: str, identity: Callable[[str], object]
) -> None:
    seen: dict[object, str] = {}
    for network in networks:
        if not (value := getattr(network, field)):
            continue
        if former := seen.get(identity(value)):
            raise InvalidNetwork(network.title, field, value, f"is that of {former} too")
        seen[identity(value)] = network.title


def _given(model: Network | Route) -> dict[str, Any]:
    return {field: value for field, value in asdict(model).items() if value}


def _fields_of(model: type[Network | Route], data: object, where: str) -> dict[str, Any]:
    """The constructor's arguments in *data*, of the right type each."""
    if not isinstance(data, dict):
        raise InvalidNetwork(where, "", data, "is not an object")
    types = {field.name: str(field.type) for field in fields(model)}
    for field, value in data.items():
        if field not in types:
            raise InvalidNetwork(where, field, value, f"is unknown: {', '.join(types)} are known")
        if type(value).__name__ != types[field]:
            raise InvalidNetwork(where, field, value, f"is not {_TYPE_NAMES[types[field]]}")
    return data


def _items(data: dict[str, Any], field: str, where: str) -> list[Any]:
    items = data.get(field) or []
    if not isinstance(items, list):
        raise InvalidNetwork(where, field, items, "is not a list")
    return items
