"""The lab's network: what ip(8) and tc(8) are told, as pure text, and how fast the cables are.

One switch, one cable (veth pair) from it to every host and to the client. On a host the cable is a
port of its bridge, which bears the host's address and takes its containers: the migration's own
traffic and the containers' share the cable, and a container keeps its addresses when it moves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from migrator.lab.errors import LabError
from migrator.lab.layout import CLIENT, PREFIX_LENGTH, UPLINK, Layout, Node

UNSHAPED = "off"
DEFAULT_BANDWIDTH = "1gbit"

_RATE = re.compile(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", re.IGNORECASE)
_UNIT_BITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_SWITCH = "mig-sw"
_QUEUE_S = 0.010
_BURST_S = 0.001
_LARGEST_SEGMENT_BYTES = 65536 + 64


def rate_bits(rate: str) -> int | None:
    """Bits a second of a rate as tc(8) writes it, None for `off`."""
    if rate == UNSHAPED:
        return None
    found = _RATE.fullmatch(rate)
    if found is None or float(found[1]) == 0:
        raise LabError(f"invalid bandwidth {rate!r}: say 100mbit, 1gbit, ... or {UNSHAPED}")
    return int(float(found[1]) * _UNIT_BITS[found[2].lower()])


def switch_commands(layout: Layout, pids: Mapping[str, int | None]) -> list[str]:
    """For `ip -batch` in the switch: the bridge and a cable into every node."""
    bridge = f"link add {_SWITCH} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    commands = [bridge, f"link set {_SWITCH} up"]
    for node in layout.plugged:
        commands += [
            f"link add {node.port} type veth peer name {UPLINK} netns {pids[node.name]}",
            f"link set {node.port} master {_SWITCH} addrgenmode none up",
        ]
    return commands


def node_commands(node: Node) -> list[str]:
    """For `ip -batch` in a host or in the client: its bridge, its addresses."""
    commands = ["link set lo up"]
    if node.name != CLIENT:
        bridge = f"link add {node.interface} address {node.mac} type bridge"
        commands += [
            f"{bridge} stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {UPLINK} master {node.interface} addrgenmode none",
            f"link set {node.interface} up",
        ]
    return [
        *commands,
        f"link set {UPLINK} up",
        f"address add {node.address}/{PREFIX_LENGTH} dev {node.interface}",
        f"address add {node.address_v6}/64 dev {node.interface} nodad",
    ]


def shape(interface: str, rate: str) -> list[str]:
    """For `tc -batch`: what *interface* sends goes no faster than *rate* (tc-tbf(8)).

    The bucket holds a millisecond's worth, and at least the largest segment that a veth passes in
    one piece; the queue behind it holds 10 ms, about what a switch does.
    """
    bits = rate_bits(rate)
    if bits is None:
        return [f"qdisc replace dev {interface} root noqueue"]
    burst = max(int(bits / 8 * _BURST_S), _LARGEST_SEGMENT_BYTES)
    limit = max(int(bits / 8 * _QUEUE_S), 2 * _LARGEST_SEGMENT_BYTES)
    return [f"qdisc replace dev {interface} root tbf rate {bits}bit burst {burst} limit {limit}"]
