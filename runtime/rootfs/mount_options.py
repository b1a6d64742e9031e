"""The options of a mount in the spec, each sorted out to where it belongs.

OCI runtime-spec config.md "Linux mount options", mount(8), mount_setattr(2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from runtime.constants import (
    MOUNT_ATTR_ATIME_MASK,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)

if TYPE_CHECKING:
    from runtime.process.plan import MountOption

# option -> bits to set, bits to clear
_ATTRIBUTES = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
}
#: what a bind mount with any attribute of its own does not take over from its source
REPLACED = 0
for _set, _ in _ATTRIBUTES.values():
    REPLACED |= _set

_NODIRATIME = "nodiratime"
_ATIMES = {
    "noatime": MOUNT_ATTR_NOATIME,
    "strictatime": MOUNT_ATTR_STRICTATIME,
    # no bit of the mask: the kernel's default
    "relatime": 0,
    _NODIRATIME: MOUNT_ATTR_NODIRATIME,
}
_NO_LONGER = {
    "atime": "noatime",
    "nostrictatime": "strictatime",
    "norelatime": "relatime",
    "diratime": _NODIRATIME,
}

# "r" before a name: for the mounts below too. The kernel takes a new access time mode only together
# with all of the mask cleared.
_RECURSIVE_ATTRIBUTES = {f"r{name}": bits for name, bits in _ATTRIBUTES.items()} | {
    "rnoatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME_MASK),
    "rstrictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME_MASK),
    **dict.fromkeys(
        ("rrelatime", "ratime", "rnorelatime", "rnostrictatime"), (0, MOUNT_ATTR_ATIME_MASK)
    ),
    "rnodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "rdiratime": (0, MOUNT_ATTR_NODIRATIME),
}

PROPAGATION = {
    "private": (MS_PRIVATE, False),
    "rprivate": (MS_PRIVATE, True),
    "shared": (MS_SHARED, False),
    "rshared": (MS_SHARED, True),
    "slave": (MS_SLAVE, False),
    "rslave": (MS_SLAVE, True),
    "unbindable": (MS_UNBINDABLE, False),
    "runbindable": (MS_UNBINDABLE, True),
}

_KINDS = frozenset(("bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup"))

# Defaults, or what only concerns mount(8) itself.
_NO_EFFECT = frozenset(
    ("defaults", "silent", "loud", "async", "nolazytime", "nomand", "noiversion")
)

_REFUSED = {"iversion": "the kernel decides by itself which filesystems count versions"}

#: the options that we carry out ourselves, whatever the filesystem
KNOWN_OPTIONS = _KINDS.union(
    _ATTRIBUTES, _ATIMES, _NO_LONGER, _RECURSIVE_ATTRIBUTES, PROPAGATION, _NO_EFFECT
)


class Options(NamedTuple):
    """The options of one mount, each where it belongs."""

    #: of bind, rbind, remount, idmap, ridmap and tmpcopyup those that are given
    kinds: frozenset[str]
    attr_set: int
    attr_clr: int
    recursive_set: int
    recursive_clr: int
    #: whether any attribute of the mount itself is asked for
    has_attributes: bool
    propagation: tuple[tuple[int, bool], ...]
    #: for the filesystem
    data: tuple[MountOption, ...]

    @property
    def bind(self) -> bool:
        """Whether it is a bind mount by its options."""
        return bool(self.kinds & {"bind", "rbind"})

    @property
    def recursive(self) -> bool:
        """Whether the mounts below the source come along."""
        return "rbind" in self.kinds

    @property
    def remount(self) -> bool:
        """Whether a mount that is there is to be changed."""
        return "remount" in self.kinds


def parse_options(options: Iterable[str]) -> Options:
    """Sort out the option strings of a mount; what is not known is for the filesystem.

    Raises ValueError for an option that is not carried out.
    """
    own, below = _Bits(), _Bits()
    kinds, propagation, data = set(), [], []
    atimes: list[str] = []
    has_attributes = False
    for option in options:
        if why := _REFUSED.get(option):
            raise ValueError(f"{option}: {why}")
        has_attributes |= option in _ATTRIBUTES or option in _ATIMES or option in _NO_LONGER
        if option in _KINDS:
            kinds.add(option)
        elif option in _ATTRIBUTES:
            own.apply(*_ATTRIBUTES[option])
        elif option in _ATIMES:
            atimes.append(option)
        elif option in _NO_LONGER:
            atimes = [each for each in atimes if each != _NO_LONGER[option]]
        elif option in _RECURSIVE_ATTRIBUTES:
            below.apply(*_RECURSIVE_ATTRIBUTES[option])
        elif option in PROPAGATION:
            propagation.append(PROPAGATION[option])
        elif option not in _NO_EFFECT:
            data += _filesystem_options(option)
    _add_atimes(own, atimes)
    return Options(
        kinds=frozenset(kinds),
        attr_set=own.set,
        attr_clr=own.clear,
        recursive_set=below.set,
        recursive_clr=below.clear,
        has_attributes=has_attributes,
        propagation=tuple(propagation),
        data=tuple(data),
    )


def _add_atimes(bits: _Bits, wanted: list[str]) -> None:
    """As mount(2) has it: what is not asked for anything keeps its mode, else that is relatime.

    The kernel takes a new mode only together with all of the mask cleared.
    """
    if wanted:
        modes = [name for name in wanted if name != _NODIRATIME]
        to_set = _ATIMES[modes[-1]] if modes else 0
        nodiratime = _ATIMES[_NODIRATIME]
        if _NODIRATIME in wanted:
            bits.apply(to_set | nodiratime, MOUNT_ATTR_ATIME_MASK)
        else:
            bits.apply(to_set, MOUNT_ATTR_ATIME_MASK | nodiratime)


class _Bits:
    """Attribute bits to set and to clear, where the later option wins."""

    def __init__(self) -> None:
        self.set = 0
        self.clear = 0

    def apply(self, to_set: int, to_clear: int) -> None:
        self.set = self.set & ~to_clear | to_set
        self.clear = self.clear & ~(to_set & ~to_clear) | to_clear


def _filesystem_options(option: str) -> list[MountOption]:
    """Split `a=1,b` as mount(2) would; a quoted value keeps its commas."""
    parts = [option] if '"' in option else option.split(",")
    pairs = (part.partition("=") for part in parts if part)
    return [(name, value if equals else None) for name, equals, value in pairs]
