"""The tmpfs mounts of a container, moved by us in CRIU's place.

CRIU starts a tar for each, of a /dev as of a masked directory, under the freeze and again at the
restore: 4 ms a time. Named to it as external, they cost it a bind mount: their content is packed
here when all stands still, and unpacked into mounts that criu's launcher has made before.
proc_pid_mountinfo(5), tmpfs(5), criu(8) --external.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from runtime.checkpoint.tree_archive import pack, unpack
from runtime.constants import AT_FDCWD
from runtime.rootfs import mount_namespace, mountinfo
from runtime.rootfs.mountinfo import MountInfo
from runtime.syscalls import open_tree

#: of an image directory
CONTENT_FILE = "tmpfs.img"

#: What holds more is left to CRIU: its tar runs in the container's cgroup, to which the pages are
#: charged that it writes, while ours are charged to whoever restores.
MAX_BYTES = 16 << 20

_POINT = re.compile(r"(/(?!\.{1,2}(/|$))[\w.+-]+)+", re.ASCII)
_SOURCE = re.compile(r"[\w./+-]{1,255}", re.ASCII)
# What shmem_show_options (mm/shmem.c) writes of those that every kernel takes.
_OPTION = re.compile(
    r"size=\d+k|nr_inodes=\d+|mode=[0-7]{1,5}|[ug]id=\d+|inode64|inode32", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """One such mount, and all that it takes to make it anew but its content."""

    point: str
    source: str
    #: as mountinfo shows them
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (_POINT.fullmatch(self.point) and _SOURCE.fullmatch(self.source)):
            raise ValueError(f"{self.source!r} on {self.point!r} is no tmpfs")
        if not all(_OPTION.fullmatch(option) for option in self.options):
            raise ValueError(f"{','.join(self.options)!r} are no options of a tmpfs")

    @property
    def name(self) -> str:
        """What CRIU is to call it."""
        return f"tmpfs:{self.point}"

    def to_json(self) -> dict[str, Any]:
        """The object that from_json takes."""
        return {"point": self.point, "source": self.source, "options": list(self.options)}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Raises ValueError when *data* is no such object."""
        match data:
            case {"point": str(point), "source": str(source), "options": list(options)}:
                if all(isinstance(option, str) for option in options):
                    return cls(point, source, tuple(options))
        raise ValueError(f"{data!r} does not describe a tmpfs")


def movable(table: Iterable[MountInfo], external: Iterable[str]) -> list[Tmpfs]:
    """Those of the mounts in *table* that can be moved so; the others are left to CRIU.

    external: mount points that are external already, and what lies below them.
    """
    table, external = list(table), set(external)
    at = Counter(info.point for info in table)
    return [
        Tmpfs(info.point, info.source, info.options[1:])
        for info in table
        if info.fstype == "tmpfs"
        and info.root == "/"
        and at[info.point] == 1
        and info.point not in external
        and not info.propagation
        and info.options[:1] == ("rw",)
        and _POINT.fullmatch(info.point)
        and _SOURCE.fullmatch(info.source)
        and all(_OPTION.fullmatch(option) for option in info.options[1:])
    ]


def small(pid: int, mounts: Iterable[Tmpfs]) -> list[Tmpfs]:
    """Those of *mounts*, seen by process *pid*, that hold little now."""
    return [mount for mount in mounts if _holds_little(f"/proc/{pid}/root{mount.point}")]


def _holds_little(path: str) -> bool:
    try:
        found = os.statvfs(path)
    except OSError:
        return False
    # shmem_statfs (mm/shmem.c): one without a limit counts no blocks
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    return found.f_blocks > 0 and used <= MAX_BYTES


class Opened:
    """The mounts of a container that is about to be dumped, each without what is mounted on it."""

    def __init__(self, pid: int, fds: Mapping[str, int]) -> None:
        self._pid, self._fds = pid, fds

    def save(self, images_dir: Path) -> None:
        """Pack what is in them, now that all of the container's processes stand still.

        Raises OSError, also when one is no longer mounted where it was.
        """
        if not self._fds:
            return
        now = {info.point: info.device for info in mountinfo.of_process(self._pid)}
        for point, fd in self._fds.items():
            if now.get(point) != os.fstat(fd).st_dev:
                raise FileNotFoundError(0, "it was mounted anew: try again", point)
        pack(images_dir / CONTENT_FILE, self._fds)


@contextmanager
def opened(pid: int, mounts: Iterable[Tmpfs]) -> Iterator[Opened]:
    """Open the mounts of process *pid*; OSError when one is not there any more."""
    with ExitStack() as stack:
        points = [mount.point for mount in mounts]
        fds = dict(zip(points, _clones(pid, points, stack), strict=True)) if points else {}
        yield Opened(pid, fds)


def _clones(pid: int, points: list[str], stack: ExitStack) -> list[int]:
    """Detached copies of the mounts at *points*, which lie in the mount namespace of *pid*."""
    fds: list[int] = []

    def clone() -> None:
        for point in points:
            fds.append(open_tree(AT_FDCWD, point))
            stack.callback(os.close, fds[-1])

    mount_namespace.within(pid, clone)
    return fds


def fill(images_dir: Path, places: Mapping[str, str]) -> None:
    """Unpack what `Opened.save` has packed.

    places: mount point in the container -> where it is mounted for now, empty.
    Raises OSError, or ValueError when the images do not hold just that; nothing was made then.
    """
    if not places:
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    with ExitStack() as stack:
        roots = {point: os.open(place, flags) for point, place in places.items()}
        for fd in roots.values():
            stack.callback(os.close, fd)
        unpack(images_dir / CONTENT_FILE, roots)
