"""What one field of a Network or a Route may hold; ValueError says what is wrong with it.

Rules of the kernel: dev_valid_name() in net/core/dev.c for names, eth_validate_addr() for MACs;
addresses are strict, so that a typing error is found here and not as a silent network.
"""

from __future__ import annotations

import ipaddress
import re

IPV4, IPV6 = 4, 6

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME_BYTES = 15  # IFNAMSIZ - 1, linux/if.h
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", re.ASCII)
_PREFIX_LENGTH = re.compile(r"[0-9]{1,3}", re.ASCII)
_EXAMPLES = {IPV4: "10.1.0.2", IPV6: "fd00:1::2"}
_EXAMPLE_LENGTHS = {IPV4: 24, IPV6: 64}
_MTU_MIN, _MTU_MAX = 68, 65535  # ETH_MIN_MTU, ETH_MAX_MTU of linux/if_ether.h
_MTU_MIN_IPV6 = 1280  # RFC 8200 section 5; below it the kernel drops IPv6 from the interface
_TXQUEUELEN_MAX = 2**31 - 1


def interface_name(name: str) -> None:
    """Refuse what the kernel refuses, and '%', which asks it to make up a name."""
    if not name:
        raise ValueError("is empty")
    if len(name.encode()) > _NAME_BYTES:
        raise ValueError(f"is longer than {_NAME_BYTES} bytes")
    if name in (".", "..") or any(c in "/:%" or c.isspace() or not c.isprintable() for c in name):
        raise ValueError(
            "is no interface name: '/', ':', '%', blanks, '.' and '..' are not allowed"
        )


def mac(text: str) -> None:
    """Refuse what is not the address of one station."""
    if not _MAC.fullmatch(text):
        raise ValueError("is not of the form 02:00:00:00:00:01")
    if int(text[:2], 16) & 1:
        raise ValueError("is a multicast address: the first byte must be even")
    if not int(text.replace(":", ""), 16):
        raise ValueError("is the null address")


def address(text: str, version: int) -> Interface:
    """An address of a host and the length of its prefix."""
    host, _, length = text.partition("/")
    if not _PREFIX_LENGTH.fullmatch(length):
        raise ValueError(
            f"has no prefix length, as in {_EXAMPLES[version]}/{_EXAMPLE_LENGTHS[version]}"
        )
    interface = ipaddress.ip_interface(f"{ip(host, version)}/{_bits(length, version)}")
    network = interface.network
    if network.prefixlen >= network.max_prefixlen - 1:
        return interface
    if interface.ip == network.network_address:
        raise ValueError(f"is the address of the network {network} itself, not of a host in it")
    if version == IPV4 and interface.ip == network.broadcast_address:
        raise ValueError(f"is the broadcast address of the network {network}, not of a host in it")
    return interface


def ip(text: str, version: int) -> Address:
    """A unicast address that a host can have."""
    found = any_ip(text)
    if found.version != version:
        raise ValueError(f"is not an IPv{version} address, such as {_EXAMPLES[version]}")
    return found


def any_ip(text: str) -> Address:
    """The same, of either family."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"is no address, such as {_EXAMPLES[IPV4]} or {_EXAMPLES[IPV6]}") from None
    if "%" in text:
        raise ValueError("has a zone, which means nothing in another network namespace")
    if found.is_multicast or found.is_unspecified or found.is_loopback:
        raise ValueError("is not the address of a host")
    return found


def any_host(text: str) -> Address:
    """The address of one that address() has let pass, without its prefix length."""
    return ipaddress.ip_interface(text).ip


def prefix(text: str) -> Prefix:
    """The destination of a route."""
    host, _, length = text.partition("/")
    if not _PREFIX_LENGTH.fullmatch(length) or "%" in text:
        raise ValueError("is no network with a prefix length, such as 10.2.0.0/16 or ::/0")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("is no network, such as 10.2.0.0/16 or ::/0") from None
    if network.network_address != ipaddress.ip_address(host):
        raise ValueError(f"has bits set behind its prefix: the network is {network}")
    return network


def source(text: str) -> Address:
    """The source of a route; libcontainer allows a prefix length, which says nothing."""
    host, slash, length = text.partition("/")
    found = any_ip(host)
    if slash:
        _bits(length, found.version)
    return found


def mtu(value: int, *, carries_ipv6: bool) -> None:
    """Within Ethernet's limits, and IPv6's where it is used."""
    least = _MTU_MIN_IPV6 if carries_ipv6 else _MTU_MIN
    if not least <= value <= _MTU_MAX:
        with_ipv6 = " with an IPv6 address" if carries_ipv6 else ""
        raise ValueError(f"is not between {least} and {_MTU_MAX}{with_ipv6}")


def txqueuelen(value: int) -> None:
    """A number of packets."""
    if not 0 < value <= _TXQUEUELEN_MAX:
        raise ValueError(f"is not between 1 and {_TXQUEUELEN_MAX}")


def _bits(text: str, version: int) -> int:
    most = 32 if version == IPV4 else 128
    if not _PREFIX_LENGTH.fullmatch(text) or int(text) > most:
        raise ValueError(f"has a prefix length that is not between 0 and {most}")
    return int(text)
