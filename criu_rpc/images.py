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
#: of a server that listens in the directory where criu works, which may be this one
LAZY_PAGES_SOCKET = "lazy-pages.socket"

_INVENTORY = "inventory.img"
# alone of all images it has no common magic before its own (image.c)
_MAGIC = struct.pack("<I", 0x58313116)
_NEEDED = (_INVENTORY, "pstree.img", "files.img")
_LONGEST_CHAIN = 500


def check(images_dir: Path) -> None:
    """Raise BadImages unless *images_dir* holds the images of a complete dump.

    Those that it is incremental to (`chain`) are looked at too.
    """
    names = _names(images_dir)
    for name in _NEEDED:
        if name not in names:
            raise BadImages(images_dir, f"has no {name}: it is not the image directory of a dump")
    chain(images_dir)


def chain(images_dir: Path) -> list[Path]:
    """*images_dir* and all those below it, which its links `parent` lead to, the newest first.

    Raises BadImages when one is missing or no image directory, or when they go round.
    """
    found: list[Path] = []
    directory = images_dir
    while True:
        names = _names(directory)
        _check_inventory(directory)
        if any(directory.samefile(each) for each in found) or len(found) == _LONGEST_CHAIN:
            raise BadImages(images_dir, "has a chain of parents without an end")
        found.append(directory)
        if PARENT not in names:
            return found
        directory = directory / PARENT


def write_inventory(images_dir: Path) -> None:
    """Write the inventory of a pre-dump, as CRIU does (cr-dump.c: cr_pre_dump_finish).

    A later dump by CRIU tells by the time in it which pids are new.
    """
    seconds, _, rest = Path("/proc/uptime").read_text().split()[0].partition(".")
    uptime_us = int(seconds) * 1_000_000 + int(rest[:2]) * 10_000
    # inventory.proto: img_version, dump_uptime, pre_dump_mode (read while it runs), plugins_entry.
    # Its generated module needs all others of CRIU's core.proto, 60 ms for three numbers.
    entry = b"\x08\x00" + b"\x40" + _varint(uptime_us) + b"\x48\x02" + b"\x62\x00"
    (images_dir / _INVENTORY).write_bytes(_MAGIC + struct.pack("<I", len(entry)) + entry)


def _varint(number: int) -> bytes:
    """Seven bits to a byte, the lowest first (Protocol Buffers, "Encoding")."""
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _check_inventory(directory: Path) -> None:
    path = directory / _INVENTORY
    if not path.exists():
        raise BadImages(directory, f"has no {_INVENTORY}: it is no image directory")
    with path.open("rb") as inventory:
        if inventory.read(len(_MAGIC)) != _MAGIC:
            raise BadImages(path, "is damaged, or not made by CRIU")


def _names(directory: Path) -> set[str]:
    try:
        with os.scandir(directory) as entries:
            return {_checked(directory, entry) for entry in entries if not _is_stranger(entry)}
    except OSError as error:
        raise BadImages(directory, error.strerror or str(error)) from error


def _is_stranger(entry: os.DirEntry[str]) -> bool:
    """A directory is nothing that CRIU would look at."""
    return entry.is_dir(follow_symlinks=False)


def _checked(directory: Path, entry: os.DirEntry[str]) -> str:
    """The entry's name."""
    mode = entry.stat(follow_symlinks=False).st_mode
    is_parent = entry.name == PARENT and stat.S_ISLNK(mode)
    is_server = entry.name == LAZY_PAGES_SOCKET and stat.S_ISSOCK(mode)
    if not (stat.S_ISREG(mode) or is_parent or is_server):
        raise BadImages(directory / entry.name, "is not a plain file, as every image is")
    return entry.name
