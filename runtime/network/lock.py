"""Which of CRIU's network locks can work on this host.

While a container is dumped, CRIU drops its packets, so that peers retransmit (criu(8)
--network-lock): by starting iptables-restore and ip6tables-restore, or through libnftables where
it was built with it. With neither, a packet could meet a kernel without its socket, which resets
the connection.
"""

from __future__ import annotations

import mmap
import shutil
from pathlib import Path

from criu_rpc import NetworkLock
from criu_rpc.process import search_path
from runtime.network.nftables import Nftables

_IPTABLES = ("iptables-restore", "ip6tables-restore")
_LIBNFTABLES = b"libnftables.so"


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
    try:
        with Nftables() as tables:
            tables.check()
    except OSError:
        return False
    return True
