"""Which of CRIU's network locks can work on this host.

While a container is dumped, CRIU drops its packets, so that peers retransmit (criu(8)
--network-lock): by starting iptables-restore and ip6tables-restore, or through libnftables where
it was built with it. With neither, a packet could meet a kernel without its socket, which resets
the connection.
"""

from __future__ import annotations

import mmap
import shutil
import socket
import struct
from pathlib import Path

from criu_rpc import NetworkLock
from criu_rpc.process import search_path

_IPTABLES = ("iptables-restore", "ip6tables-restore")
_LIBNFTABLES = b"libnftables.so"

# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_NETLINK_NETFILTER, _NLMSG_ERROR, _NLM_F_REQUEST = 12, 2, 1
_NFT_MSG_GETGEN = 10 << 8 | 16
_NLMSGHDR = struct.Struct("=IHHII")


def network_lock(criu: Path, *, path: str | None = None) -> NetworkLock:
    """nftables when CRIU can speak it, else iptables when both its programs are there, else none.

    nftables first, though CRIU's default is the other: libnftables works within criu, where the
    iptables programs, started four times while the container stands still, take 100 ms.

    path: where programs are looked for, by default where criu will. Costs a millisecond: nothing is
    started, criu's file is searched for the library's name, and the kernel is asked.
    """
    if _links_libnftables(criu) and _kernel_has_nf_tables():
        return NetworkLock.NFTABLES
    if all(shutil.which(program, path=path or search_path()) for program in _IPTABLES):
        return NetworkLock.IPTABLES
    return NetworkLock.SKIP


def _links_libnftables(criu: Path) -> bool:
    with (
        criu.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(_LIBNFTABLES) >= 0


def _kernel_has_nf_tables() -> bool:
    """Ask for the rule set's generation: without nf_tables the answer is an error."""
    size = _NLMSGHDR.size + 4  # struct nfgenmsg: all zeros is right
    request = _NLMSGHDR.pack(size, _NFT_MSG_GETGEN, _NLM_F_REQUEST, 0, 0) + bytes(4)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER) as control:
        control.send(request)
        reply = control.recv(4096)
    return bool(_NLMSGHDR.unpack_from(reply)[1] != _NLMSG_ERROR)
