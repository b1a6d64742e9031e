"""What a criu program is and can do: the answers to VERSION and FEATURE_CHECK (rpc.proto)."""

from dataclasses import dataclass
from typing import NamedTuple


class Version(NamedTuple):
    """CRIU's version; compares as numbers."""

    major: int
    minor: int
    sublevel: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}" + (f".{self.sublevel}" if self.sublevel else "")


#: Older ones do not start on kernels whose vDSO has more than two pages of data (6.15 and later).
MINIMUM_VERSION = Version(4, 1)


@dataclass(frozen=True, slots=True)
class Features:
    """What this CRIU can do on this kernel."""

    #: pre-dump: the kernel marks pages as they are written (CONFIG_MEM_SOFT_DIRTY)
    mem_track: bool
    #: lazy-pages: userfaultfd with its non-cooperative events
    lazy_pages: bool
    #: pre-dump without a race on reused pids
    pidfd_store: bool
