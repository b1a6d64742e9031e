"""All that a network namespace holds, in a form that can be sent and made again (namespaces(7)).

What the kernel tells by rtnetlink(7) is what it takes: addresses, routes, rules and neighbours are
kept as the messages that they came in, as `entry` writes them. What nothing here can make again -
other interfaces, packet filters, queueing disciplines - is named in `others`: a namespace that has
any has to be carried by CRIU, as far as CRIU can.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

from runtime.network import namespace_sysctl, netlink, rtm
from runtime.network.netlink import Message, Netlink, attribute, attributes, text
from runtime.network.netns import Netns, in_netns
from runtime.network.nftables import Nftables
from runtime.network.unlock import TABLE_PREFIX

LOOPBACK_INDEX = 1
# The others are the driver's, or a moment's.
_LINK_FLAGS = rtm.IFF_UP | rtm.IFF_NOARP | rtm.IFF_PROMISC | rtm.IFF_ALLMULTI | rtm.IFF_MULTICAST

# What a link can be given when it is set, and when it is made.
_SETTABLE = frozenset(
    (
        *(rtm.IFLA_MTU, rtm.IFLA_QUEUE_LENGTH, rtm.IFLA_ALIAS, rtm.IFLA_GROUP),
        *(rtm.IFLA_GSO_SEGMENTS, rtm.IFLA_GSO_SIZE),
    )
)
_LINK_ATTRIBUTES = _SETTABLE.union(
    (rtm.IFLA_ADDRESS, rtm.IFLA_BROADCAST, rtm.IFLA_TX_QUEUES, rtm.IFLA_RX_QUEUES)
)
_XDP_ATTACHED = 2  # IFLA_XDP_ATTACHED

_INET, _INET6 = 2, 10
_FOREVER = 0xFFFF_FFFF
_TENTATIVE, _DAD_FAILED, NO_DAD = 0x40, 0x08, 0x02
_OF_A_MOMENT = _TENTATIVE | _DAD_FAILED | NO_DAD | 0x04
_RTA_MULTIPATH, _RTA_CACHEINFO, _RTA_EXPIRES = 9, 12, 23
_ONLINK, _TABLE_LOCAL, _BY_KERNEL = 0x4, 255, 2
_USER_HZ = 100
_PERMANENT, _PROXY = 0x80, 0x08  # linux/neighbour.h: NUD_PERMANENT, NTF_PROXY
_NDA_DESTINATION, _NDA_ADDRESS = 1, 2
_XFRM_GET_STATE, _XFRM_GET_POLICY = 0x12, 0x15

_LEGACY = ("ip_tables_names", "ip6_tables_names", "arp_tables_names")
_FLAGS_FROM = 0x4000  # NLA_F_NET_BYTEORDER: from here on bits of an attribute's number are flags
_LIFETIME = re.compile(rf" (?:{rtm.IFA_CACHEINFO}|{_RTA_EXPIRES})=[0-9a-f]+\Z")


class Entry(NamedTuple):
    """A message's own header, and its attributes in order."""

    header: bytes
    attributes: tuple[tuple[int, bytes], ...]

    def __str__(self) -> str:
        """Both in hexadecimal: `0218000002000000 1=0a010002 8=80000000`."""
        return " ".join((self.header.hex(), *(f"{k}={v.hex()}" for k, v in self.attributes)))

    @classmethod
    def parse(cls, line: str) -> Self:
        """What str() wrote. Raises ValueError."""
        header, *rest = line.split(" ")
        pairs = ((int(k), bytes.fromhex(v)) for k, v in (each.split("=") for each in rest))
        found = cls(bytes.fromhex(header), tuple(pairs))
        if not all(
            0 < kind < _FLAGS_FROM and len(value) < _FLAGS_FROM for kind, value in found.attributes
        ):
            raise ValueError(f"{line} has an attribute that cannot be")
        return found

    @property
    def payload(self) -> bytes:
        """What a request has behind netlink's header."""
        return self.header + b"".join(attribute(*each) for each in self.attributes)

    @property
    def settable(self) -> bytes:
        """Of a link's attributes, those that it can be given later too."""
        return b"".join(attribute(*each) for each in self.attributes if each[0] in _SETTABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One interface."""

    name: str
    index: int
    kind: str
    flags: int
    #: an Entry without a header: what it was given
    given: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One namespace. Its JSON is that of the fields: lists of strings, links as objects."""

    links: tuple[Link, ...]
    addresses: tuple[str, ...]
    routes: tuple[str, ...]
    rules: tuple[str, ...]
    neighbours: tuple[str, ...]
    #: path below /proc/sys/net -> value
    sysctls: dict[str, str]
    #: what is there and cannot be made again, in words
    others: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The object that from_json takes."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        links = [{f.name: getattr(link, f.name) for f in fields(Link)} for link in self.links]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()} | {
            "links": links
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Raises ValueError when *data* is no such object: it may come from anywhere."""
        match data:
            case {"links": list(links), "sysctls": dict(sysctls), **rest}:
                lists = {name: read(rest.pop(name, None)) for name, read in _LISTS.items()}
                if not rest:
                    return cls(
                        links=tuple(map(_link_of, links)), sysctls=_parameters(sysctls), **lists
                    )
        raise ValueError("a network namespace is described in another way")

    def differences(self, other: Self) -> list[str]:
        """What *other* has that this has not, and the reverse, in words; lifetimes do not count.

        Of kernel parameters those that both have: the kernels may be of different versions.
        """
        found = []
        for name in ("links", *_LISTS):
            here, there = (set(map(lasting, getattr(each, name))) for each in (self, other))
            found += [f"{name}: {each} is missing" for each in sorted(here - there)]
            found += [f"{name}: {each} is new" for each in sorted(there - here)]
        for name, value in self.sysctls.items():
            if (now := other.sysctls.get(name, value)) != value:
                found.append(f"net/{name} is {now!r}, not {value!r}")
        return found


class Reader:
    """Sockets into one namespace, to read it several times and fast. A context manager."""

    def __init__(self, netns: Netns) -> None:
        """Raises SetupFailed when there is no such namespace, OSError without rtnetlink."""
        self._netns = netns
        self._sockets = ExitStack()
        with in_netns(netns), ExitStack() as undo:
            self._route = undo.enter_context(Netlink(netlink.ROUTE))
            self._xfrm = self._nftables = None
            with suppress(OSError):
                self._xfrm = undo.enter_context(Netlink(netlink.XFRM))
            with suppress(OSError):
                self._nftables = undo.enter_context(Nftables())
            self._names = namespace_sysctl.names()
            self._sockets = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close them."""
        self._sockets.close()

    def read(self) -> Description:
        """All of it, in some 4 ms; parameters as far as they were there when this was made.

        What locks the network, as CRIU does while it dumps, is left out.
        """
        with in_netns(self._netns):
            sysctls = namespace_sysctl.read(self._names)
            words = [*_legacy_tables(), *_services()]
        links = [_link(message.payload) for message in self._all(rtm.GET_LINK, rtm.LINK)]
        addresses = [_address(message.payload) for message in self._all(rtm.GET_ADDRESS)]
        routes = [_route(message.payload) for message in self._all(rtm.GET_ROUTE)]
        return Description(
            links=tuple(link for link, _ in links),
            addresses=tuple(str(entry) for entry, _ in addresses),
            routes=tuple(str(entry) for entry, _ in routes if not _follows(entry)),
            rules=tuple(str(_entry(rtm.RULE, m.payload)) for m in self._all(rtm.GET_RULE)),
            neighbours=tuple(self._neighbours()),
            sysctls=sysctls,
            others=(
                *words,
                *(word for _, more in (*links, *addresses, *routes) for word in more),
                *self._qdiscs(),
                *self._nexthops(),
                *self._tables(),
                *self._transforms(),
            ),
        )

    def _all(self, kind: int, header: struct.Struct = rtm.ROUTE) -> list[Message]:
        return self._route.dump(kind, bytes(header.size))

    def _neighbours(self) -> Iterator[str]:
        for flags in (0, _PROXY):
            request = rtm.NEIGHBOUR.pack(0, 0, 0, flags, 0)
            for message in self._route.dump(rtm.GET_NEIGHBOUR, request):
                family, index, state, has, kind = rtm.NEIGHBOUR.unpack_from(message.payload)
                if state & _PERMANENT or has & _PROXY:
                    wanted = {_NDA_DESTINATION, _NDA_ADDRESS}
                    pairs = _entry(rtm.NEIGHBOUR, message.payload, wanted.__contains__).attributes
                    yield str(Entry(rtm.NEIGHBOUR.pack(family, index, state, has, kind), pairs))

    def _qdiscs(self) -> Iterator[str]:
        for message in self._all(rtm.GET_QDISC, rtm.QDISC):
            kind = text(dict(attributes(message.payload[rtm.QDISC.size :])).get(1, b""))
            if kind not in ("noqueue", "noop"):
                yield f"a queueing discipline {kind}"

    def _nexthops(self) -> Iterator[str]:
        with suppress(OSError):
            if self._route.dump(rtm.GET_NEXTHOP, bytes(8)):
                yield "nexthop objects"

    def _tables(self) -> Iterator[str]:
        if self._nftables is not None:
            with suppress(OSError):
                for table in self._nftables.tables():
                    if not table.name.startswith(TABLE_PREFIX):
                        yield f"the nftables table {table.name}"

    def _transforms(self) -> Iterator[str]:
        for kind, word in ((_XFRM_GET_STATE, "states"), (_XFRM_GET_POLICY, "policies")):
            with suppress(OSError):
                if self._xfrm is not None and self._xfrm.dump(kind, b""):
                    yield f"IPsec {word}"


def objections(description: Description, interfaces: Iterable[str]) -> list[str]:
    """Why the namespace cannot be made again: everything in it but the loopback and *interfaces*,
    veths that the caller knows.
    """
    known = set(interfaces)
    found = [f"it has {word}" for word in description.others]
    for link in description.links:
        if link.index == LOOPBACK_INDEX:
            if not link.flags & rtm.IFF_UP:
                found.append("its loopback is down")  # CRIU needs it up, being in there
        elif link.name not in known or link.kind != "veth":
            found.append(f"it has the interface {link.name}")
    found += [f"it has no interface {name}" for name in known - {x.name for x in description.links}]
    return found


def _entry(header: struct.Struct, payload: bytes, wanted: Callable[[int], bool] = bool) -> Entry:
    pairs = attributes(payload[header.size :])
    return Entry(payload[: header.size], tuple((k, v) for k, v in pairs if wanted(k)))


def _link(payload: bytes) -> tuple[Link, list[str]]:
    _, _, index, flags, _ = rtm.LINK.unpack_from(payload)
    found = dict(attributes(payload[rtm.LINK.size :]))
    name, info = text(found[rtm.IFLA_NAME]), dict(attributes(found.get(rtm.IFLA_LINKINFO, b"")))
    xdp = dict(attributes(found.get(rtm.IFLA_XDP, b""))).get(_XDP_ATTACHED, b"\0")
    words = [f"an XDP program on {name}"] if any(xdp) else []
    words += [f"other names of {name}"] if found.get(rtm.IFLA_OTHER_NAMES) else []
    pairs = tuple(sorted((k, v) for k, v in found.items() if k in _LINK_ATTRIBUTES))
    link = Link(
        name=name,
        index=index,
        kind=text(info.get(rtm.INFO_KIND, b"")),
        flags=flags & _LINK_FLAGS,
        given=str(Entry(b"", pairs)),
    )
    return link, words


def _address(payload: bytes) -> tuple[Entry, list[str]]:
    """Without what is the matter of a moment, and without a lifetime that does not end."""
    family, length, flags, scope, index = rtm.ADDRESS.unpack_from(payload)
    pairs = []
    for kind, value in _entry(rtm.ADDRESS, payload).attributes:
        if kind == rtm.IFA_FLAGS:
            (flags,) = struct.unpack("=I", value)
            pairs.append((kind, struct.pack("=I", flags & ~_OF_A_MOMENT)))
        elif kind != rtm.IFA_CACHEINFO:
            pairs.append((kind, value))
        elif struct.unpack_from("=I", value, 4)[0] != _FOREVER:
            ends = (kind, value)
            pairs.append(ends)
    pairs.sort(key=lambda pair: pair[0] == rtm.IFA_CACHEINFO)
    words = ["an address that failed duplicate address detection"] if flags & _DAD_FAILED else []
    header = rtm.ADDRESS.pack(family, length, flags & ~_OF_A_MOMENT & 0xFF, scope, index)
    return Entry(header, tuple(pairs)), words


def _route(payload: bytes) -> tuple[Entry, list[str]]:
    """Without the state of its interface; when it expires, in seconds from now."""
    *head, flags = rtm.ROUTE.unpack_from(payload)
    pairs, expires = [], 0
    for kind, value in _entry(rtm.ROUTE, payload).attributes:
        if kind == _RTA_CACHEINFO:
            expires = struct.unpack_from("=i", value, 8)[0]
        elif kind == _RTA_MULTIPATH:
            pairs.append((kind, _without_state(value)))
        else:
            pairs.append((kind, value))
    if expires > 0:
        pairs.append((_RTA_EXPIRES, struct.pack("=I", max(1, expires // _USER_HZ))))
    words = [] if head[0] in (_INET, _INET6) else [f"routes of family {head[0]}"]
    return Entry(rtm.ROUTE.pack(*head, flags & _ONLINK), tuple(pairs)), words


def _follows(route: Entry) -> bool:
    """Whether it is there since an address is: a moment after it, where that is asked about."""
    _, _, _, _, table, origin, *_ = rtm.ROUTE.unpack(route.header)
    return (table, origin) == (_TABLE_LOCAL, _BY_KERNEL)


def _without_state(hops: bytes) -> bytes:
    """Flags of struct rtnexthop but for onlink: dead and linkdown are its interface's."""
    found = bytearray(hops)
    at = 0
    while at + 8 <= len(found):
        found[at + 2] &= _ONLINK
        at += max(8, struct.unpack_from("=H", found, at)[0] + 3 & ~3)
    return bytes(found)


def _legacy_tables() -> Iterator[str]:
    """Tables of iptables-legacy are there from their first use on, also when empty."""
    for name in _LEGACY:
        with suppress(OSError), open(f"/proc/thread-self/net/{name}") as file:
            for table in file.read().split():
                yield f"the {name.removesuffix('_names')} table {table}"


def _services() -> Iterator[str]:
    with suppress(OSError), open("/proc/thread-self/net/ip_vs") as file:
        if len(file.readlines()) > 3:  # those of its heading
            yield "IPVS services"


def _link_of(data: Any) -> Link:
    match data:
        case {"name": str(), "index": int(), "kind": str(), "flags": int(), "given": str(given)}:
            if len(data) == len(fields(Link)):
                Entry.parse(given)
                return Link(**data)
    raise ValueError("an interface of a network namespace is described in another way")


def _strings(data: Any) -> tuple[str, ...]:
    if not isinstance(data, list) or not all(isinstance(each, str) for each in data):
        raise ValueError("what a network namespace has is not a list of strings")
    return tuple(data)


def _entries(data: Any) -> tuple[str, ...]:
    found = _strings(data)
    if not all(Entry.parse(each).header for each in found):
        raise ValueError("what a network namespace has is without a header")
    return found


def _parameters(data: dict[Any, Any]) -> dict[str, str]:
    for name, value in data.items():
        fine = isinstance(name, str) and isinstance(value, str)
        if not fine or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{name!r} is not a parameter of a network namespace")
    return data


_LISTS: Mapping[str, Callable[[Any], tuple[str, ...]]] = {
    "addresses": _entries,
    "routes": _entries,
    "rules": _entries,
    "neighbours": _entries,
    "others": _strings,
}


def lasting(item: Any) -> str:
    """*item* without what changes by itself."""
    if isinstance(item, Link):
        return f"{item.name} ({item.index}, {item.kind}, {item.flags:#x}, {item.given})"
    return _LIFETIME.sub("", item)
