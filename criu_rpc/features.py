"""What a criu program is and can do: the answers to VERSION and FEATURE_CHECK (rpc.proto)."""

import os
import re
from dataclasses import dataclass
from typing import NamedTuple


class Version(NamedTuple):
    """CRIU's version; compares as numbers."""

    major: int
    minor: int
    sublevel: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}" + (f".{self.sublevel}" if self.sublevel else "")


def minimum_version(kernel: str | None = None) -> Version:
    """The oldest CRIU that works on *kernel* (a release as of uname(2); None: the running one).

    Before 4.1 CRIU does not know today's vDSO. Linux 6.16 answers SO_PASSCRED for Unix and netlink
    sockets only, and before 4.2 CRIU asks every socket for it (criu#2705).
    """
    release = os.uname().release if kernel is None else kernel
    numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    return Version(4, 2) if numbers >= (6, 16) else Version(4, 1)


@dataclass(frozen=True, slots=True)
class Features:
    """What this CRIU can do on this kernel."""

    #: pre-dump: the kernel marks pages as they are written (CONFIG_MEM_SOFT_DIRTY)
    mem_track: bool
    #: lazy-pages: userfaultfd with its non-cooperative events
    lazy_pages: bool
    #: pre-dump without a race on reused pids
    pidfd_store: bool
