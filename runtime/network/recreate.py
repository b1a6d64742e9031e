"""Make a network namespace again from its description, before the container comes to live in it.

It is held by a descriptor alone: nothing is left of it when its holder dies. Its interfaces work,
but lead nowhere: only `connect` puts their host ends on bridges, so that no packet finds the
addresses while the container still runs elsewhere. veth(4), rtnetlink(7).
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Self

from runtime.constants import CLONE_NEWNET
from runtime.errors import NetworkError, NetworkNotCarried
from runtime.network import devices, links, namespace_sysctl, netlink, rtm
from runtime.network.capture import (
    LOOPBACK_INDEX,
    NO_DAD,
    Description,
    Entry,
    Link,
    Reader,
    lasting,
)
from runtime.network.models import Networks
from runtime.network.netlink import APPEND, CREATE, EXCLUSIVE, Netlink, attribute, string
from runtime.network.netns import in_netns
from runtime.syscalls import setns, unshare

_HAIRPIN = 4  # IFLA_BRPORT_MODE
_BRIDGE, _INET6 = 7, 10  # AF_BRIDGE, AF_INET6

_READ = os.O_RDONLY | os.O_CLOEXEC

# Some of what the kernel adds to an address, and a link's own address, come a moment later.
_SETTLED_S = 2.0
_POLL_S = 0.01
_ATTEMPTS = 3


class Recreated:
    """A namespace that was made again. A context manager: leaving it removes the namespace, unless
    a process lives in it.
    """

    def __init__(self, networks: Networks, container_id: str, *, netns: str | None = None) -> None:
        """Make it, empty, or take that of the path *netns*, which is empty.

        networks: those whose bridges are this host's. Raises OSError.
        """
        self._veths = {network.name: network for network in networks.veths}
        self._id = container_id
        self._description: Description | None = None
        self._connected = False
        with ExitStack() as undo:
            self.fd = os.open(netns, _READ) if netns else _new_namespace()
            undo.callback(os.close, self.fd)
            self._host = undo.enter_context(Netlink(netlink.ROUTE))
            with in_netns(self.path):
                self._inside = undo.enter_context(Netlink(netlink.ROUTE))
            self._resources = undo.pop_all()

    @property
    def path(self) -> str:
        """Its file, as long as this is open."""
        return f"/proc/self/fd/{self.fd}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        self._resources.close()

    def fill(self, description: Description) -> None:
        """Have it hold what *description* says, and nothing else; at once if it does already.

        Raises NetworkNotCarried when that cannot be had here, and names what is different;
        NetworkError for a host end. What was made goes when this is closed.
        """
        if self._description is not None:
            if self._description == description or not self._description.differences(description):
                return
            self._remove_pairs()
        self._description = description
        try:
            self._make(description)
        except OSError as error:
            raise NetworkNotCarried(error.strerror or str(error)) from error

    def connect(self) -> None:
        """Put the host ends on their bridges: from now on its addresses are here. Idempotent.

        Raises NetworkError.
        """
        for network in () if self._connected else self._veths.values():
            name = network.host_end(self._id)
            try:
                index = _index_of(name)
                master = attribute(rtm.IFLA_MASTER, struct.pack("=I", _index_of(network.bridge)))
                self._host.ask(rtm.SET_LINK, _header(index) + master)
                if network.hairpin_mode:
                    port = attribute(rtm.IFLA_PROTINFO | 0x8000, attribute(_HAIRPIN, b"\x01"))
                    self._host.ask(rtm.SET_LINK, _header(index, family=_BRIDGE) + port)
            except OSError as error:
                why = f"cannot be put on bridge {network.bridge}: {error.strerror}"
                raise NetworkError(name, why) from error
        self._connected = True

    def _make(self, description: Description) -> None:
        # those that each new interface takes after come before it
        self._write_sysctls(description.sysctls)
        for link in description.links:
            if link.index != LOOPBACK_INDEX:
                self._make_pair(link)
        names = [link.name for link in description.links]
        # without a neighbour there is nobody to ask whether an address is taken
        unasked = {f"ipv6/conf/{name}/accept_dad": "0" for name in ("all", *names)}
        self._write_sysctls(description.sysctls | unasked)
        for link in description.links:
            header = rtm.LINK.pack(0, 0, link.index, link.flags, 0xFFFF_FFFF)
            self._inside.ask(rtm.SET_LINK, header + Entry.parse(link.given).settable)
        self._settle(description)

    def _make_pair(self, link: Link) -> None:
        """Both ends by one request, the container's with its number, which processes may know."""
        network = self._veths.get(link.name)
        if network is None or link.kind != "veth":
            raise OSError(errno.EOPNOTSUPP, f"the interface {link.name} is not one of ours")
        name = network.host_end(self._id)
        with open("/proc/thread-self/ns/net", "rb") as home:
            outer = _header(0) + attribute(rtm.IFLA_NAME, string(name)) + _sizes(link)
            outer += attribute(rtm.IFLA_ADDRESS, links.host_mac(name))
            outer += attribute(rtm.IFLA_NETNS_FD, struct.pack("=I", home.fileno()))
            # only where this end is the peer does the kernel heed the other's number (veth.c)
            peer = attribute(rtm.VETH_PEER, outer)
            info = attribute(rtm.INFO_KIND, b"veth") + attribute(rtm.INFO_DATA, peer)
            inner = _header(link.index) + attribute(rtm.IFLA_NAME, string(link.name))
            inner += Entry.parse(link.given).payload + attribute(rtm.IFLA_LINKINFO, info)
            inner += attribute(rtm.IFLA_NETNS_FD, struct.pack("=I", self.fd))
            self._host.ask(rtm.NEW_LINK, inner, CREATE | EXCLUSIVE)
        label = attribute(rtm.IFLA_ALIAS, string(links.label(self._id)))
        self._host.ask(rtm.SET_LINK, _header(_index_of(name)) + label)
        devices.bring_up(name)

    def _settle(self, description: Description) -> None:
        deadline = time.monotonic() + _SETTLED_S
        with Reader(self.path) as reader:
            while True:
                found = reader.read()
                for kind, wanted, has in (
                    (rtm.NEW_ADDRESS, description.addresses, found.addresses),
                    (rtm.NEW_RULE, description.rules, found.rules),
                    (rtm.NEW_ROUTE, description.routes, found.routes),
                    (rtm.NEW_NEIGHBOUR, description.neighbours, found.neighbours),
                ):
                    self._reconcile(kind, wanted, has)
                self._write_sysctls(description.sysctls)
                if not (differences := description.differences(reader.read())):
                    return
                if time.monotonic() > deadline:
                    raise NetworkNotCarried(differences[0])
                time.sleep(_POLL_S)

    def _reconcile(self, kind: int, wanted: Iterable[str], has: Iterable[str]) -> None:
        """Remove what is not wanted, add what is missing; gateways after what leads to them."""
        keep, there = set(map(lasting, wanted)), set(map(lasting, has))
        for line in has:
            if lasting(line) not in keep:
                self._try(kind + 1, Entry.parse(line))
        missing = [Entry.parse(line) for line in wanted if lasting(line) not in there]
        for _ in range(_ATTEMPTS):
            missing = [entry for entry in missing if not self._try(kind, entry, CREATE | APPEND)]

    def _try(self, kind: int, entry: Entry, flags: int = 0) -> bool:
        if kind == rtm.NEW_ADDRESS:
            entry = _without_question(entry)
        try:
            self._inside.ask(kind, entry.payload, flags)
        except OSError:
            return False  # what comes of it is seen in the end
        return True

    def _write_sysctls(self, wanted: dict[str, str]) -> None:
        with in_netns(self.path):
            namespace_sysctl.write(wanted)

    def _remove_pairs(self) -> None:
        for network in self._veths.values():
            index = devices.index_of(network.host_end(self._id))
            if index is not None:
                self._host.ask(rtm.DEL_LINK, _header(index))
        self._connected = False


def _new_namespace() -> int:
    """A new network namespace as a descriptor; the calling thread is in its own again."""
    home_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare(CLONE_NEWNET)
        try:
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            setns(home_fd, CLONE_NEWNET)
    finally:
        os.close(home_fd)


def _header(index: int, *, family: int = 0) -> bytes:
    return rtm.LINK.pack(family, 0, index, 0, 0)


def _index_of(name: str) -> int:
    index = devices.index_of(name)
    if index is None:
        raise OSError(errno.ENODEV, f"no interface {name}")
    return index


def _sizes(link: Link) -> bytes:
    """For the host end, those of the container's."""
    wanted = (rtm.IFLA_MTU, rtm.IFLA_QUEUE_LENGTH)
    pairs = Entry.parse(link.given).attributes
    return b"".join(attribute(*pair) for pair in pairs if pair[0] in wanted)


def _without_question(entry: Entry) -> Entry:
    """An IPv6 address without duplicate address detection: it is usable at once."""
    if entry.header[0] != _INET6:
        return entry
    pairs = tuple(
        (k, bytes([v[0] | NO_DAD, *v[1:]]) if k == rtm.IFA_FLAGS and v else v)
        for k, v in entry.attributes
    )
    return Entry(entry.header, pairs)
