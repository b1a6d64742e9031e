"""Interfaces of the host that a container gets: moved into its network namespace, and named there.

OCI runtime-spec config-linux.md "Network Devices": addresses of global scope, MTU and MAC stay as
they are, and who owns the namespace owns the interface from then on. When a namespace ends, the
kernel gives hardware back to the host and removes what is virtual. rtnetlink(7).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from runtime.errors import NetworkError
from runtime.network import devices, rtm
from runtime.network.netlink import (
    CREATE,
    EXCLUSIVE,
    ROUTE,
    Netlink,
    attribute,
    attributes,
    string,
)
from runtime.network.netns import Netns, in_netns, path_of

if TYPE_CHECKING:
    from runtime.undo import Undo

_GLOBAL = 0  # RT_SCOPE_UNIVERSE


class _Address(NamedTuple):
    """An address as it is given again: family and prefix, and the attributes that stay."""

    family: int
    prefix: int
    rest: bytes


class _Place(NamedTuple):
    """A network namespace, held open, and a name there."""

    netns_fd: int
    name: str


def move_in(wanted: Mapping[str, Mapping[str, str]], netns: Netns, undo: Undo) -> None:
    """Move the interfaces of linux.netDevices into *netns*, and bring them up there.

    Raises NetworkError. When a later step fails, *undo* brings each back with its addresses, while
    the container's namespace is still there.
    """
    host_fd = _held("/proc/thread-self/ns/net", undo)
    inside_fd = _held(os.fspath(path_of(netns)), undo)
    for name, device in wanted.items():
        index = devices.index_of(name)
        if index is None:
            raise NetworkError(name, "link not found: there is no such interface on the host")
        outside = _Place(host_fd, name)
        inside = _Place(inside_fd, device.get("name") or name)
        was_up = devices.is_up(name)
        addresses = _addresses_of(index)
        with _told(name):
            _send(index, outside, inside)
            undo.on_error(_move_back, inside, outside, addresses, up=was_up)
            _settle(inside, addresses, up=True)


def _held(path: str, undo: Undo) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    undo.callback(os.close, fd)
    return fd


def _send(index: int, source: _Place, target: _Place) -> None:
    """Move it from the calling thread's namespace, by one request with its new name."""
    # The kernel would move it first, and only then find the new name taken.
    with in_netns(f"/proc/self/fd/{target.netns_fd}"):
        if devices.link_exists(target.name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    name = attribute(rtm.IFLA_NAME, string(target.name))
    where = attribute(rtm.IFLA_NETNS_FD, struct.pack("=I", target.netns_fd))
    # It is set down on its way and not before: one that must stay would lose its routes by that.
    # (__dev_change_net_namespace of net/core/dev.c refuses first, and closes it then.)
    with Netlink(ROUTE) as kernel:
        kernel.ask(rtm.NEW_LINK, rtm.LINK.pack(0, 0, index, 0, rtm.IFF_UP) + name + where)


def _settle(place: _Place, addresses: list[_Address], *, up: bool) -> None:
    """Give it, where it has come to, the addresses that it had: moving takes them away."""
    with in_netns(f"/proc/self/fd/{place.netns_fd}"), Netlink(ROUTE) as kernel:
        index = devices.index_of(place.name)
        assert index is not None, "it has just come here under that name"
        for each in addresses:
            header = rtm.ADDRESS.pack(each.family, each.prefix, rtm.PERMANENT, _GLOBAL, index)
            kernel.ask(rtm.NEW_ADDRESS, header + each.rest, CREATE | EXCLUSIVE)
        if up:
            devices.bring_up(place.name)


def _move_back(inside: _Place, outside: _Place, addresses: list[_Address], *, up: bool) -> None:
    with _told(inside.name):
        with in_netns(f"/proc/self/fd/{inside.netns_fd}"):
            index = devices.index_of(inside.name)
            if index is None:
                return  # somebody has moved it on
            _send(index, inside, outside)
        _settle(outside, addresses, up=up)


def _addresses_of(index: int) -> list[_Address]:
    """The addresses that stay: permanent, and of more than this host (RFC 3549)."""
    found = []
    with Netlink(ROUTE) as kernel:
        for message in kernel.dump(rtm.GET_ADDRESS, rtm.ADDRESS.pack(0, 0, 0, 0, 0)):
            family, prefix, flags, scope, owner = rtm.ADDRESS.unpack_from(message.payload)
            if owner == index and flags & rtm.PERMANENT and scope == _GLOBAL:
                rest = b"".join(_kept(message.payload[rtm.ADDRESS.size :]))
                found.append(_Address(family, prefix, rest))
    return found


def _kept(data: bytes) -> Iterator[bytes]:
    """The attributes but those that name the interface, or are the kernel's own counters."""
    for kind, value in attributes(data):
        if kind not in (rtm.IFA_LABEL, rtm.IFA_CACHEINFO, rtm.IFA_FLAGS):
            yield attribute(kind, value)


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        remedies = {
            errno.EEXIST: "the namespace that it is to go to has an interface of that name",
            errno.EINVAL: "it cannot leave its network namespace",
        }
        why = remedies.get(exc.errno or 0) or f"cannot move it: {exc.strerror or exc}"
        raise NetworkError(name, why) from exc
