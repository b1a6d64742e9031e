"""Telling the neighbours where an address now is: gratuitous ARP and unsolicited advertisements.

RFC 5227 section 3 (ARP), RFC 4861 section 4.4 (Neighbor Advertisement). Frames go out by packet(7)
sockets, past the filter that CRIU locks the network with; addresses come from getifaddrs(3), so
that nothing is imported in the moment in which a container stands still.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from runtime.network import rtm
from runtime.network.netns import Netns, in_netns

_UNANNOUNCED = rtm.IFF_LOOPBACK | rtm.IFF_NOARP
_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD  # linux/if_ether.h
_ARP_REQUEST, _ARP_REPLY = 1, 2
_ND_ADVERTISEMENT = 136
_OVERRIDE = 0x2000_0000
_BROADCAST = b"\xff" * 6
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")

#: a lost frame must not cost a neighbour's timeout
_COPIES = 3


class Station(NamedTuple):
    """One interface that can be announced, with its addresses in network byte order."""

    name: str
    mac: bytes
    ipv4: tuple[bytes, ...]
    ipv6: tuple[bytes, ...]


def announce(netns: Netns, *, copies: int = _COPIES) -> int:
    """Announce every address of every interface of *netns* that is up; returns how many addresses.

    Takes under a millisecond of the caller's time. Raises SetupFailed when *netns* is no namespace,
    OSError when the kernel takes no frame (an interface without carrier silently drops it).
    """
    with in_netns(netns):
        found = stations()
        _send({station.name: _frames(station) * copies for station in found})
    return sum(len(station.ipv4) + len(station.ipv6) for station in found)


def stations() -> list[Station]:
    """The interfaces of the current namespace that are up and have neighbours."""
    entries = list(_getifaddrs())
    macs = {entry.name: entry.address for entry in entries if entry.family == socket.AF_PACKET}

    def addresses(name: str, family: int) -> tuple[bytes, ...]:
        return tuple(e.address for e in entries if e.name == name and e.family == family)

    return [
        Station(name, mac, addresses(name, socket.AF_INET), addresses(name, socket.AF_INET6))
        for name, mac in macs.items()
        if len(mac) == len(_BROADCAST)
    ]


def _frames(station: Station) -> list[bytes]:
    return [*_arp_frames(station), *_advertisements(station)]


def _arp_frames(station: Station) -> Iterator[bytes]:
    """Both forms: some systems update their cache by requests only, some by replies only."""
    for ip in station.ipv4:
        for operation, target in ((_ARP_REQUEST, bytes(6)), (_ARP_REPLY, _BROADCAST)):
            arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
            arp += station.mac + ip + target + ip
            yield _BROADCAST + station.mac + struct.pack("!H", _ETH_P_ARP) + arp


def _advertisements(station: Station) -> Iterator[bytes]:
    for ip in station.ipv6:
        link_layer_option = struct.pack("!BB", 2, 1) + station.mac
        body = struct.pack("!I", _OVERRIDE) + ip + link_layer_option
        head = struct.pack("!BBH", _ND_ADVERTISEMENT, 0, 0)
        pseudo = ip + _ALL_NODES + struct.pack("!II", len(head + body), socket.IPPROTO_ICMPV6)
        checksum = _internet_checksum(pseudo + head + body)
        icmp = struct.pack("!BBH", _ND_ADVERTISEMENT, 0, checksum) + body
        # hop limit 255: a router never forwards it, a neighbour accepts nothing less
        ipv6 = struct.pack("!IHBB", 6 << 28, len(icmp), socket.IPPROTO_ICMPV6, 255)
        ipv6 += ip + _ALL_NODES
        yield _ALL_NODES_MAC + station.mac + struct.pack("!H", _ETH_P_IPV6) + ipv6 + icmp


def _internet_checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _send(frames: Mapping[str, list[bytes]]) -> None:
    # protocol 0: this socket receives nothing
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        for ifname, batch in frames.items():
            for frame in batch:
                packet.sendto(frame, (ifname, 0))
    finally:
        # packet_release() waits for an RCU grace period, 8-16 ms: not while a container waits
        threading.Thread(target=packet.close, daemon=True).start()


class _IfAddrs(ctypes.Structure):
    """struct ifaddrs of ifaddrs.h."""

    _fields_ = (
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("flags", ctypes.c_uint),
        ("addr", ctypes.c_void_p),
        ("netmask", ctypes.c_void_p),
        ("broadaddr", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
    )


# Where a sockaddr keeps the address, and how long it is: sockaddr_in, sockaddr_in6; sockaddr_ll
# (packet(7)) has its length at 11 and the address at 12.
_ADDRESS_AT = {socket.AF_INET: (4, 4), socket.AF_INET6: (8, 16)}


class _Entry(NamedTuple):
    name: str
    family: int
    address: bytes


def _getifaddrs() -> Iterator[_Entry]:
    """getifaddrs(3), of the interfaces that are up and can have neighbours."""
    libc = ctypes.CDLL(None, use_errno=True)
    head = ctypes.c_void_p()
    if libc.getifaddrs(ctypes.byref(head)) < 0:
        raise OSError(ctypes.get_errno(), "getifaddrs")
    try:
        address = head.value
        while address:
            entry = _IfAddrs.from_address(address)
            usable = entry.flags & rtm.IFF_UP and not entry.flags & _UNANNOUNCED
            if usable and entry.addr and (found := _decoded(entry.name, entry.addr)):
                yield found
            address = entry.next
    finally:
        libc.freeifaddrs(head)


def _decoded(name: bytes, sockaddr: int) -> _Entry | None:
    family = int.from_bytes(ctypes.string_at(sockaddr, 2), sys.byteorder)
    # an IPv4 address has its label here: eth0:1 is an address of eth0
    ifname = name.decode().partition(":")[0]
    if family == socket.AF_PACKET:
        length = ctypes.string_at(sockaddr + 11, 1)[0]
        return _Entry(ifname, family, ctypes.string_at(sockaddr + 12, length))
    if family in _ADDRESS_AT:
        offset, length = _ADDRESS_AT[socket.AddressFamily(family)]
        return _Entry(ifname, family, ctypes.string_at(sockaddr + offset, length))
    return None
