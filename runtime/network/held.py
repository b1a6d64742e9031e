"""Packets for a container that stands still: kept on its old host, given to it on the new one.

A client whose packet was dropped waits for its own timer, 200 ms and more; one whose packet was
only late gets its answer as soon as the container runs again. packet(7), linux/virtio_net.h.

A frame is kept with the header that the kernel gives it for another machine (PACKET_VNET_HDR):
within a host checksums are not computed, and segments not cut, before somebody needs it.
"""

from __future__ import annotations

import array
import base64
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
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h
# EtherType -> where the header of IPv4, of IPv6 says what is in it (without extension headers)
_PROTOCOL_AT = {b"\x08\x00": 14 + 9, b"\x86\xdd": 14 + 6}
_VNET_HEADER_BYTES, _TCP = 10, b"\x06"
_FRAME_BYTES = 1 << 17
_BUFFER_BYTES = 4 << 20
_MOST_BYTES, _MOST_FRAMES = 1 << 20, 4096

# linux/filter.h, linux/bpf_common.h: code, where to go on if it is so, and if not, operand
_INSTRUCTION = struct.Struct("=HBBI")
_BYTE_AT, _HALF_AT, _WORD_AT, _EQUALS, _HAS_BITS, _RETURN = 0x30, 0x28, 0x20, 0x15, 0x45, 0x06
_PACKET_TYPE, _VLAN_PRESENT = (0xFFFF_F000 + number for number in (4, 48))  # SKF_AD_*
_NOTHING = ((_RETURN, 0, 0, 0),)


class Held:
    """What is sent to one container while it stands still; the kernel keeps it, some MiB.

    Of more than it can keep the oldest stay: what follows a gap is sent again soon. A context
    manager.
    """

    def __init__(self, networks: Networks, container_id: str, netns: Netns) -> None:
        """Make ready, on every host end, before the freeze. Raises OSError, SetupFailed."""
        with in_netns(netns):
            macs = {network.name: devices.mac_of(network.name) for network in networks.veths}
        with ExitStack() as undo:
            self._taps = [
                (network.name, macs[network.name], undo.enter_context(_tap(host_end)))
                for network in networks.veths
                if (host_end := network.host_end(container_id))
            ]
            self._early: Frames = {}
            self._resources = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; returns at once."""
        _close_later(self._resources.pop_all())

    def begin(self) -> None:
        """Keep what comes from now on: to be called just before the freeze. Raises OSError."""
        for _, mac, tap in self._taps:
            _attach(tap, _sent_to(mac))

    def lock(self) -> None:
        """The network is about to be locked: from now on nothing reaches the container.

        What has come since `begin` may have reached it, or still lie where a busy machine leaves
        packets for a while: of that only TCP is kept, which takes a segment twice without harm.
        """
        for name, _, tap in self._taps:
            self._early[name] = [frame for frame in _received(tap) if _is_tcp(frame)]

    def take(self) -> Frames:
        """What has come and nobody has taken yet, up to 1 MiB."""
        left_bytes = _MOST_BYTES
        found: Frames = {}
        for name, _, tap in self._taps:
            for frame in (*self._early.pop(name, ()), *_received(tap)):
                left_bytes -= len(frame)
                if left_bytes < 0:
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
        tap.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        _attach(tap, _NOTHING)  # the traffic of a container that still runs would fill it
        tap.bind((host_end, _ETH_P_ALL))
    except BaseException:
        tap.close()
        raise
    return tap


def _sent_to(mac: bytes) -> tuple[tuple[int, int, int, int], ...]:
    """Frames that go out of the interface, to *mac* or to many, and in no VLAN: a tag is not part
    of the frame, and would be lost.
    """
    first, last = int.from_bytes(mac[:4], "big"), int.from_bytes(mac[4:], "big")
    return (
        (_BYTE_AT, 0, 0, _PACKET_TYPE),
        (_EQUALS, 0, 8, socket.PACKET_OUTGOING),
        (_BYTE_AT, 0, 0, _VLAN_PRESENT),
        (_EQUALS, 0, 6, 0),
        (_BYTE_AT, 0, 0, 0),
        (_HAS_BITS, 5, 0, 1),
        (_WORD_AT, 0, 0, 0),
        (_EQUALS, 0, 2, first),
        (_HALF_AT, 0, 0, 4),
        (_EQUALS, 1, 0, last),
        *_NOTHING,
        (_RETURN, 0, 0, 0xFFFF_FFFF),
    )


def _attach(tap: socket.socket, program: Iterable[tuple[int, int, int, int]]) -> None:
    code = array.array("B", b"".join(_INSTRUCTION.pack(*each) for each in program))
    address, size = code.buffer_info()
    filter_program = struct.pack("@HP", size // _INSTRUCTION.size, address)
    tap.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)


def _received(tap: socket.socket) -> Iterable[bytes]:
    for _ in range(_MOST_FRAMES):
        try:
            yield tap.recv(_FRAME_BYTES)
        except BlockingIOError:
            return
        except OSError:
            # ENETDOWN, once, when the interface was set down: what came before is still there;
            # EINVAL for a frame that its header cannot describe, which is then gone
            continue


def _is_tcp(frame: bytes) -> bool:
    ethernet = frame[_VNET_HEADER_BYTES:]
    protocol_at = _PROTOCOL_AT.get(ethernet[12:14], 0)
    return ethernet[protocol_at : protocol_at + 1] == _TCP if protocol_at else False


def _sent(packet: socket.socket, frame: bytes, host_end: str) -> bool:
    try:
        packet.sendto(frame, (host_end, 0))
    except OSError:
        return False
    return True


def _close_later(resources: ExitStack) -> None:
    # packet_release() waits for an RCU grace period, 8-16 ms: not while a container waits
    threading.Thread(target=resources.close, daemon=True).start()
