"""An image directory as it must look before a restore is tried from it (criu's magic.h, image.h).

CRIU checks what each image says, not what lies there: it follows a symbolic link to wherever that
leads, and reads from a pipe until somebody writes.
"""

import os
import stat
import struct
from pathlib import Path

from criu_rpc.errors import BadImages

#: the one link that CRIU makes: to the images of the round before
PARENT = "parent"

_INVENTORY = "inventory.img"
# alone of all images it has no common magic before its own (image.c)
_MAGIC = struct.pack("<I", 0x58313116)
_NEEDED = (_INVENTORY, "pstree.img", "files.img")


def check(images_dir: Path) -> None:
    """Raise BadImages unless *images_dir* holds the images of a complete dump."""
    try:
        with os.scandir(images_dir) as entries:
            names = {_checked(images_dir, entry) for entry in entries if not _is_stranger(entry)}
    except OSError as error:
        raise BadImages(images_dir, error.strerror or str(error)) from error
    for name in _NEEDED:
        if name not in names:
            raise BadImages(images_dir, f"has no {name}: it is not the image directory of a dump")
    with (images_dir / _INVENTORY).open("rb") as inventory:
        if inventory.read(len(_MAGIC)) != _MAGIC:
            raise BadImages(images_dir / _INVENTORY, "is damaged, or not made by CRIU")


def _is_stranger(entry: os.DirEntry[str]) -> bool:
    """A directory is nothing that CRIU would look at."""
    return entry.is_dir(follow_symlinks=False)


def _checked(directory: Path, entry: os.DirEntry[str]) -> str:
    """The entry's name."""
    mode = entry.stat(follow_symlinks=False).st_mode
    is_parent = entry.name == PARENT and stat.S_ISLNK(mode)
    if not (stat.S_ISREG(mode) or is_parent):
        raise BadImages(directory / entry.name, "is not a plain file, as every image is")
    return entry.name
