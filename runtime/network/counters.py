"""What the interfaces of a network namespace have carried, by netlink from outside.

rtnetlink(7), linux/if_link.h: struct rtnl_link_stats64. Sent and received are the container's own.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from runtime.network import netlink, rtm
from runtime.network.netns import Netns, in_netns

_STATS = struct.Struct("=8Q")  # the beginning, of which all kernels agree


@dataclass(frozen=True, slots=True)
class InterfaceStats:
    """One interface, in the order in which runc prints it."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


def read(netns: Netns) -> tuple[InterfaceStats, ...]:
    """Every interface of *netns* but its loopback.

    Only the calling thread enters it, to open a socket. Raises SetupFailed when there is no such
    namespace (any more), OSError.
    """
    with in_netns(netns):
        conversation = netlink.Netlink(netlink.ROUTE)
    with conversation:
        links = conversation.dump(rtm.GET_LINK, rtm.LINK.pack(0, 0, 0, 0, 0))
    return tuple(_parsed(link.payload) for link in links if not _is_loopback(link.payload))


def _is_loopback(link: bytes) -> bool:
    return bool(rtm.LINK.unpack_from(link)[3] & rtm.IFF_LOOPBACK)


def _parsed(link: bytes) -> InterfaceStats:
    values = dict(netlink.attributes(link[rtm.LINK.size :]))
    counted = _STATS.unpack_from(values[rtm.IFLA_STATS64])
    rx_packets, tx_packets, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_lost, tx_lost = counted
    return InterfaceStats(
        netlink.text(values[rtm.IFLA_NAME]),
        *(rx_bytes, rx_packets, rx_errors, rx_lost),
        *(tx_bytes, tx_packets, tx_errors, tx_lost),
    )
