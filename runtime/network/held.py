"""Packets for a container that stands still: kept on its old host, given to it on the new one.

A client whose packet was dropped waits for its own timer, 200 ms and more; one whose packet was
only late gets its answer as soon as the container runs again. packet(7), linux/virtio_net.h.

A frame is kept with the header that the kernel gives it for another machine (PACKET_VNET_HDR):
within a host checksums are not computed, and segments not cut, before somebody needs it.
"""

from __future__ import annotations

import base64
import errno
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Self

from runtime.network import devices
from runtime.network.models import Networks
from runtime.network.netns import Netns, in_netns

#: interface of the container -> frames, oldest first
Frames = dict[str, list[bytes]]

_ETH_P_ALL = 0x0003  # linux/if_ether.h
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15  # linux/if_packet.h
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35  # asm-generic/socket.h
_TIMESTAMP = struct.Struct("=qq")
_NS = 1_000_000_000
_VNET_HEADER_BYTES = 10
_ADDRESS_BYTES = 6
# one more than the largest frame: a length beyond says that it was cut
_FRAME_BYTES = 1 << 17
_BUFFER_BYTES = 4 << 20
_MOST_BYTES, _MOST_FRAMES = 1 << 20, 4096


class Held:
    """What is sent to one container, from now on; the kernel keeps it, some MiB. A context manager.

    Of more than it can keep the oldest stay: what follows a gap is sent again soon.
    """

    def __init__(self, networks: Networks, container_id: str, netns: Netns) -> None:
        """Begin, on every host end. To be made before the freeze. Raises OSError, SetupFailed."""
        with in_netns(netns):
            macs = {network.name: devices.mac_of(network.name) for network in networks.veths}
        with ExitStack() as undo:
            self._taps = [
                (network.name, macs[network.name], undo.enter_context(_tap(host_end)))
                for network in networks.veths
                if (host_end := network.host_end(container_id))
            ]
            self._resources = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; returns at once."""
        _close_later(self._resources.pop_all())

    def take(self, since_ns: int) -> Frames:
        """What has come since *since_ns* (of time.time_ns) and nobody has taken yet, up to 1 MiB.

        since_ns: when the network was locked. What came before has reached the container, and to
        get a datagram twice would be wrong.
        """
        left_bytes, left_frames = _MOST_BYTES, _MOST_FRAMES
        found: Frames = {}
        for name, mac, tap in self._taps:
            for frame in _received(tap, mac, since_ns):
                left_bytes, left_frames = left_bytes - len(frame), left_frames - 1
                if left_bytes < 0 or left_frames < 0:
                    return found
                found.setdefault(name, []).append(frame)
        return found


def replay(networks: Networks, container_id: str, frames: Mapping[str, Iterable[bytes]]) -> int:
    """Send *frames* to the container as if they came only now; returns how many it got.

    The right moment is CRIU's pre-resume: sockets are out of repair mode, and no process runs yet.
    Never raises: a packet is not worth a container.
    """
    sent = 0
    try:
        packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except OSError:
        return sent
    with ExitStack() as resources:
        resources.enter_context(packet)
        packet.setblocking(False)
        packet.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        for network in networks.veths:
            for frame in frames.get(network.name, ()):
                sent += _sent(packet, frame, network.host_end(container_id))
        _close_later(resources.pop_all())
    return sent


def to_wire(frames: Mapping[str, Iterable[bytes]]) -> dict[str, list[str]]:
    """As JSON."""
    return {name: [base64.b64encode(x).decode() for x in each] for name, each in frames.items()}


def from_wire(data: Any) -> Frames:
    """What to_wire made. Raises ValueError when *data* is something else."""
    if not isinstance(data, dict):
        raise ValueError("held packets are not an object")
    found: Frames = {}
    for name, frames in data.items():
        if not isinstance(frames, list) or not all(isinstance(x, str) for x in frames):
            raise ValueError(f"held packets of {name} are not a list of strings")
        found[name] = [base64.b64decode(each, validate=True) for each in frames]
    return found


def _tap(host_end: str) -> socket.socket:
    # protocol 0 until it is bound: nothing of other interfaces gets in
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        tap.setblocking(False)
        tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        tap.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        tap.bind((host_end, _ETH_P_ALL))
    except BaseException:
        tap.close()
        raise
    return tap


def _received(tap: socket.socket, mac: bytes, since_ns: int) -> Iterable[bytes]:
    """Frames out of the host end, to *mac* or to many, that have come since then."""
    while True:
        try:
            frame, ancillary, _, address = tap.recvmsg(_FRAME_BYTES, 64)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENETDOWN:
                return
            continue  # said once, when the interface was set down; what came before is still there
        to = frame[_VNET_HEADER_BYTES:][:_ADDRESS_BYTES]
        ours = len(to) == _ADDRESS_BYTES and (to == mac or to[0] & 1)
        outgoing = address[2] == socket.PACKET_OUTGOING
        if ours and outgoing and _time_ns(ancillary) >= since_ns:
            yield frame


def _time_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, rest = _TIMESTAMP.unpack_from(data)
            return int(seconds) * _NS + int(rest)
    return 0


def _sent(packet: socket.socket, frame: bytes, host_end: str) -> bool:
    try:
        packet.sendto(frame, (host_end, 0))
    except OSError:
        return False
    return True


def _close_later(resources: ExitStack) -> None:
    # packet_release() waits for an RCU grace period, 8-16 ms: not while a container waits
    threading.Thread(target=resources.close, daemon=True).start()
