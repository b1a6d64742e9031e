"""Names of the systemd units that containers are: pure.

linux.cgroupsPath is "slice:prefix:name" then, as runc has it: a scope prefix-name.scope in the
slice, or the slice itself when the name is one's. systemd.unit(5), systemd.slice(5).
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from runtime.errors import UnsupportedField

PREFIX = "migrator"
SLICE, SCOPE = ".slice", ".scope"
ROOT_SLICE = "-.slice"
_CHARACTERS = re.compile(r"[A-Za-z0-9:_.\\@-]+")
_LONGEST = 255


class Unit(NamedTuple):
    """A unit that systemd makes for one container, and the slice that it is in."""

    name: str
    parent: str

    @property
    def is_slice(self) -> bool:
        """Whether it is a slice, not a scope; processes are then moved into it by us."""
        return self.name.endswith(SLICE)

    @property
    def path(self) -> str:
        """Its cgroup, absolute within each hierarchy."""
        return str(PurePosixPath("/", *_chain(self.parent), self.name))

    @classmethod
    def of_path(cls, path: str) -> Unit:
        """The unit whose cgroup is at *path*."""
        parts = PurePosixPath(path)
        above = parts.parent.name
        return cls(parts.name, above if above.endswith(SLICE) else ROOT_SLICE)


def unit_of(cgroups_path: str, container_id: str, *, rootless: bool = False) -> Unit:
    """The unit for linux.cgroupsPath; raises UnsupportedField for what names none."""
    default = "user.slice" if rootless else "system.slice"
    if not cgroups_path:
        return _checked(Unit(f"{PREFIX}-{container_id}{SCOPE}", default), cgroups_path)
    parts = cgroups_path.split(":")
    if len(parts) != 3 or not parts[2]:
        raise _refused(cgroups_path, "the systemd driver wants slice:prefix:name")
    parent, prefix, name = parts
    if not name.endswith(SLICE):
        name = f"{prefix}-{name}{SCOPE}" if prefix else f"{name}{SCOPE}"
    return _checked(Unit(name, parent or default), cgroups_path)


def _checked(unit: Unit, cgroups_path: str) -> Unit:
    for each in unit:
        if not _CHARACTERS.fullmatch(each) or len(each) > _LONGEST:
            raise _refused(cgroups_path, f"{each!r} is no name of a systemd unit")
    stem = unit.parent.removesuffix(SLICE)
    if unit.parent != ROOT_SLICE and (stem == unit.parent or not all(stem.split("-"))):
        raise _refused(cgroups_path, f"{unit.parent!r} is no slice")
    return unit


def _chain(parent: str) -> list[str]:
    """a-b.slice lies in a.slice: dashes are what slashes are in paths."""
    if parent == ROOT_SLICE:
        return []
    words = parent.removesuffix(SLICE).split("-")
    return ["-".join(words[: count + 1]) + SLICE for count in range(len(words))]


def _refused(cgroups_path: str, why: str) -> UnsupportedField:
    return UnsupportedField("config.json", [("linux.cgroupsPath", f"{why}: {cgroups_path!r}")])
