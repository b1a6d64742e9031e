"""Questions about one interface of the current network namespace, by ioctl: no library needed.

netdevice(7), linux/ethtool.h. /sys/class/net is not asked: it shows the namespace that sysfs was
mounted in, which need not be the thread's.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from collections.abc import Callable

from runtime.constants import IFF_UP, SIOCGIFFLAGS, SIOCSIFFLAGS

# linux/sockios.h, linux/ethtool.h
_SIOCGIFHWADDR = 0x8927
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x03
_IFNAMSIZ = 16
_DRVINFO = struct.Struct("=I32s32s32s32s32s12sIIIII")  # struct ethtool_drvinfo


def link_exists(name: str) -> bool:
    """Whether there is an interface of that name."""
    return index_of(name) is not None


def bridge_exists(name: str) -> bool:
    """Whether there is a bridge of that name."""
    return driver_of(name) == "bridge"


def index_of(name: str) -> int | None:
    """The interface's number, None when there is no such interface."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def driver_of(name: str) -> str | None:
    """`veth`, `bridge`, `openvswitch` ...; "" for one without a name, None without interface."""
    reply = array.array("B", struct.pack("=I", _ETHTOOL_GDRVINFO).ljust(_DRVINFO.size, b"\0"))
    try:
        _ethtool(name, reply)
    except OSError as exc:
        if exc.errno == errno.ENODEV:
            return None
        if exc.errno == errno.EOPNOTSUPP:
            return ""
        raise
    driver: bytes = _DRVINFO.unpack(reply)[1]
    return driver.rstrip(b"\0").decode("ascii", "replace")


def mac_of(name: str) -> bytes:
    """The interface's own address, of six bytes. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        reply = fcntl.ioctl(control, _SIOCGIFHWADDR, struct.pack("=16s24x", name.encode()))
    return bytes(reply[18:24])  # behind the name a sockaddr, whose first two bytes are the type


def is_up(name: str) -> bool:
    """Whether the interface is set up. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        return bool(_flags_of(control, name) & IFF_UP)


def bring_up(name: str) -> None:
    """Set the interface up (as `ip link set up`)."""
    _change_flags(name, lambda flags: flags | IFF_UP)


def bring_down(name: str) -> None:
    """Set the interface down: it neither sends nor receives."""
    _change_flags(name, lambda flags: flags & ~IFF_UP)


def _change_flags(name: str, change: Callable[[int], int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        flags = change(_flags_of(control, name))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("=16sh14x", name.encode(), flags))


def _flags_of(control: socket.socket, name: str) -> int:
    request = struct.pack("=16sh14x", name.encode(), 0)
    reply = fcntl.ioctl(control, SIOCGIFFLAGS, request)
    return int(struct.unpack("=16sh14x", reply)[1])


def _ethtool(name: str, command: array.array[int]) -> None:
    encoded = name.encode()
    if not 0 < len(encoded) < _IFNAMSIZ:
        raise OSError(errno.ENODEV, "no such interface", name)
    address, _ = command.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("@16sP16x", encoded, address))
