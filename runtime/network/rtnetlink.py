"""One rtnetlink socket in one network namespace, through pyroute2; errors become NetworkError.

rtnetlink(7). pyroute2 is imported when the first socket is opened: without a veth nobody pays.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

from runtime.errors import NetworkError
from runtime.network.netns import Netns, in_netns


@contextmanager
def connect(netns: Netns | None = None) -> Iterator[Any]:
    """A pyroute2 IPRoute that speaks to *netns*, or to the caller's own namespace.

    The socket is opened inside and used from outside; pyroute2's own way to another namespace
    forks a process for each.
    """
    # lazy: 150 ms. The package's __init__ imports all of it (asyncio alone is 40 ms), so no
    # submodule nor the distribution pyroute2.minimal is lighter: all were measured.
    from pyroute2 import IPRoute  # noqa: PLC0415

    with in_netns(netns) if netns is not None else nullcontext():
        # groups=0: no events, only answers; ext_ack: the kernel says why.
        socket = IPRoute(groups=0, ext_ack=True)
    try:
        yield socket
    finally:
        socket.close()


@contextmanager
def failing_as(
    ifname: str,
    doing: str,
    *,
    remedies: Mapping[int, str] = MappingProxyType({}),
    unless: Container[int] = (),
) -> Iterator[None]:
    """Turn the kernel's refusal into a NetworkError about *ifname*.

    remedies: what to say instead, by errno; unless: errnos that are no failure.
    """
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - imported by connect()

    try:
        yield
    except NetlinkError as exc:
        if exc.code in unless:
            return
        why = remedies.get(exc.code) or f"cannot {doing}: {exc.args[-1]}"
        raise NetworkError(ifname, why) from exc


def index_in(socket: Any, ifname: str) -> int | None:
    """The number of an interface in the socket's namespace, None when it is not there."""
    found = socket.link_lookup(ifname=ifname)
    return int(found[0]) if found else None
