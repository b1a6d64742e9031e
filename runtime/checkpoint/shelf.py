"""The shelf: a directory that criu alone sees, with what a restore takes of the host.

CRIU mounts what is external by its path, in the name of the container's root (criu/mount-v2.c
do_bind_mount_v2), and as him reads the images. In a user namespace that is an ordinary user of the
host, who may not go everywhere; and CRIU maps the ids of no mount. So criu's launcher, with the
powers of the host's root, has all of it at hand before, on a tmpfs in a mount namespace of its own
(runtime/process/shelving.py), and CRIU is told these paths. mount_setattr(2) MOUNT_ATTR_IDMAP.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from criu_rpc import images
from runtime.checkpoint.externals import Source
from runtime.errors import RestoreFailed
from runtime.rootfs import mount_namespace
from runtime.syscalls import move_mount, open_tree

if TYPE_CHECKING:
    from runtime.checkpoint.tmpfs import Tmpfs
    from runtime.process.plan import ShelfPlan

# Everybody may enter the root directory, and so what is mounted on one in it.
_TOPS = ("/mnt", "/media", "/srv", "/opt", "/home", "/boot")
_IMAGES = "images"
_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Shelf:
    """What lies on it; each has its place."""

    directory: Path
    #: for the host's root alone
    private: bool
    #: made new, and filled by the runtime
    tmpfs: tuple[Tmpfs, ...] = ()
    sources: tuple[Source, ...] = ()
    #: `show_images` has the images be read from here
    shows_images: bool = False

    def tmpfs_places(self) -> dict[str, str]:
        """Mount point in the container -> where the new tmpfs is."""
        return {mount.point: self._place("tmpfs", n) for n, mount in enumerate(self.tmpfs)}

    def external(self) -> list[tuple[str, str]]:
        """(name, path) of all that lies on it, as CRIU is told."""
        places = self.tmpfs_places()
        return [
            *((mount.name, places[mount.point]) for mount in self.tmpfs),
            *((each.name, self._place("source", n)) for n, each in enumerate(self.sources)),
        ]

    @property
    def images_dir(self) -> Path | None:
        """Where criu is to read the images; None: where they are."""
        return self.directory / _IMAGES if self.shows_images else None

    def show_images(self, images_dir: Path, criu_pid: int) -> None:
        """Have everybody in criu's mount namespace read the images, which are there now.

        Root of a user namespace reads them under two names, first the host's root's, until his ids
        are mapped (criu/cr-restore.c: prepare_timens), then his own: he cannot be their owner, and
        nobody else may enter their directory.
        Raises OSError, which names the image.
        """
        place = self.directory / _IMAGES
        for directory in images.chain(images_dir):
            _show(directory, place, criu_pid)
            place /= images.PARENT

    def plan(self) -> ShelfPlan:
        """What the launcher is told."""
        shown = [(f"source{n}", each) for n, each in enumerate(self.sources)]
        idmaps = list(dict.fromkeys(each.idmap for _, each in shown if each.idmap))
        return {
            "directory": str(self.directory),
            "mode": "700" if self.private else "755",
            "tmpfs": [
                {
                    "name": f"tmpfs{number}",
                    "source": mount.source,
                    "options": [(key, value) for key, _, value in map(_parted, mount.options)],
                }
                for number, mount in enumerate(self.tmpfs)
            ],
            "shown": [
                {
                    "name": name,
                    "source": each.path,
                    "below": each.below,
                    "fstype": each.fstype,
                    "idmap": idmaps.index(each.idmap) if each.idmap else None,
                }
                for name, each in shown
            ],
            "idmaps": idmaps,
        }

    def _place(self, kind: str, number: int) -> str:
        return f"{self.directory}/{kind}{number}"


def _parted(option: str) -> tuple[str, str, str]:
    return option.partition("=")


def _show(directory: Path, place: Path, criu_pid: int) -> None:
    """Mount the images of *directory* below *place*, where criu is: only from there can that be.

    Some at a time: each is a descriptor until then.
    """
    names = [path.name for path in directory.iterdir() if path.suffix == ".img"]
    mount_namespace.within(criu_pid, _make_public, place)
    for first in range(0, len(names), _AT_ONCE):
        with ExitStack() as stack:
            part = names[first : first + _AT_ONCE]
            trees = {name: _readable(directory / name, stack) for name in part}
            mount_namespace.within(criu_pid, _put, trees, place)


def _readable(image: Path, stack: ExitStack) -> int:
    """A detached mount of *image*, which others may read; where they come to it here alone, it is
    made so (whoever dumped may have had a umask).
    """
    image_fd = os.open(image, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    stack.callback(os.close, image_fd)
    fd = open_tree(image_fd, "")
    stack.callback(os.close, fd)
    mode = os.fstat(fd).st_mode
    if not mode & stat.S_IROTH:
        if image.parent.stat().st_mode & stat.S_IXOTH:
            why = "root of its user namespace is nobody here: others have to be allowed to read it"
            raise PermissionError(errno.EACCES, why, str(image))
        os.fchmod(image_fd, stat.S_IMODE(mode) | stat.S_IROTH)
    return fd


def _make_public(place: Path) -> None:
    place.mkdir()
    place.chmod(0o755)


def _put(trees: Mapping[str, int], place: Path) -> None:
    for name, tree_fd in trees.items():
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        file_fd = os.open(place / name, flags, 0o600)
        try:
            move_mount(tree_fd, file_fd)
        finally:
            os.close(file_fd)


def public_directory(container_id: str, kept: Iterable[Path]) -> Path:
    """A directory that everybody may enter, and that none of the paths *kept* leads through."""
    paths = [path.resolve() for path in kept]
    for top in map(Path, _TOPS):
        free = not any(path.is_relative_to(top) for path in paths)
        if free and top.is_dir() and not top.is_symlink():
            return top
    raise RestoreFailed(container_id, f"none of {', '.join(_TOPS)} is there to mount on: make one")
