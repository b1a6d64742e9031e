"""Directory trees in one file: what CRIU has tar for, without a program under the freeze.

The file is a line of JSON, {"trees": {name: [entry, ...]}}, and after it the bytes of all regular
files, in the order of their entries. Kept are kinds, names, owners, permissions, times, hard links,
holes and device numbers; sockets are not, since CRIU binds them anew. An archive may come from
anywhere: it is checked before anything of it is made.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from runtime.holes import extents

_MAX_HEADER = 64 << 20
_KINDS = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO)
_MAX_TIME = 1 << 63
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC


@dataclass(slots=True)
class Entry:
    """One name of a tree; the first entry is the tree's own root, without a name."""

    #: number of the directory's entry, which comes first
    parent: int
    name: str
    #: st_mode
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    #: st_rdev of a device
    device: int = 0
    #: of a symbolic link
    target: str = ""
    #: number of the entry that this is another name of
    link: int | None = None
    size: int = 0
    #: (offset, bytes) of what lies between the holes
    extents: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, parent: int, name: str, status: os.stat_result) -> Self:
        """What *status* says of it."""
        return cls(
            parent,
            name,
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_atime_ns,
            status.st_mtime_ns,
            status.st_rdev,
        )

    @classmethod
    def from_json(cls, data: Any, before: list[Entry]) -> Self:
        """Raises ValueError when *data* cannot come after *before*."""
        try:
            entry = cls(**data)
            entry.extents = tuple((int(start), int(size)) for start, size in entry.extents)
        except TypeError as exc:
            raise ValueError(f"{data!r} is no entry") from exc
        entry._check(before)
        return entry

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)

    def _check(self, before: list[Entry]) -> None:
        numbers = (self.parent, self.mode, self.uid, self.gid, self.atime_ns, self.mtime_ns)
        if not all(isinstance(each, int) for each in (*numbers, self.device, self.size)):
            raise ValueError(f"an entry {self.name!r} with something that is no number")
        if not 0 <= self.mode <= 0o177777:
            raise ValueError(f"an entry {self.name!r} of no kind")
        if not (isinstance(self.name, str) and isinstance(self.target, str)):
            raise ValueError("an entry whose name is no text")
        if before:
            self._check_place(before)
        elif self.name or self.kind != stat.S_IFDIR:
            raise ValueError("a tree that does not begin with its root")
        if not all(abs(each) < _MAX_TIME for each in (self.atime_ns, self.mtime_ns)):
            raise ValueError(f"{self.name!r} with a time that cannot be")
        end = 0
        for start, size in self.extents:
            if start < end or size < 1 or start + size > self.size:
                raise ValueError(f"{self.name!r} has bytes where it cannot")
            end = start + size

    def _check_place(self, before: list[Entry]) -> None:
        if self.name in ("", ".", "..") or "/" in self.name or "\0" in self.name:
            raise ValueError(f"{self.name!r} is not the name of a file")
        above = before[self.parent] if 0 <= self.parent < len(before) else None
        if above is None or above.kind != stat.S_IFDIR or self.kind not in _KINDS:
            raise ValueError(f"{self.name!r} cannot be made")
        if self.link is not None and not (
            isinstance(self.link, int)
            and 0 < self.link < len(before)
            and before[self.link].kind != stat.S_IFDIR
        ):
            raise ValueError(f"{self.name!r} is another name of nothing")


def pack(archive: Path, roots: Mapping[str, int]) -> None:
    """Write the trees below the directories *roots*, which nobody changes meanwhile.

    roots: name -> descriptor; nothing is mounted below it (open_tree(2) makes such).
    Raises OSError; the archive is then a part.
    """
    trees = {name: _scan(fd) for name, fd in roots.items()}
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(archive, flags, 0o600), "wb", buffering=0) as file:
        header = {name: [_brief(entry) for entry in tree] for name, tree in trees.items()}
        _write_all(file.fileno(), json.dumps({"trees": header}).encode() + b"\n")
        for name, tree in trees.items():
            for path, entry in _paths(tree):
                if entry.extents:
                    _copy_from(roots[name], path, entry, file.fileno())


def unpack(archive: Path, roots: Mapping[str, int]) -> None:
    """Fill the empty directories *roots*, name -> descriptor, with the trees of these names.

    Raises ValueError when it is no such archive, or not one of exactly these trees; OSError.
    """
    with archive.open("rb") as file:
        try:
            trees = _header(file.readline(_MAX_HEADER))
        except RecursionError as exc:
            raise ValueError("it is no archive of trees") from exc
        if trees.keys() != roots.keys():
            raise ValueError(f"it holds {', '.join(sorted(trees)) or 'nothing'}")
        size = sum(size for tree in trees.values() for e in tree for _, size in e.extents)
        if file.tell() + size != os.fstat(file.fileno()).st_size:
            raise ValueError("it is not whole")
        os.lseek(file.fileno(), file.tell(), os.SEEK_SET)
        for name, tree in trees.items():
            try:
                _fill(roots[name], tree, file.fileno())
            except OverflowError as exc:
                raise ValueError(f"{name}: {exc}") from exc


def _scan(root_fd: int) -> list[Entry]:
    found = [Entry.of(0, "", os.fstat(root_fd))]
    paths = ["."]
    first_names: dict[int, int] = {}
    for number, path in enumerate(paths):  # grows: every directory comes to be looked into
        if found[number].kind != stat.S_IFDIR:
            continue
        fd = os.open(path, _READ | os.O_DIRECTORY, dir_fd=root_fd)
        try:
            with os.scandir(fd) as names:
                below = sorted((each.name, each.stat(follow_symlinks=False)) for each in names)
        finally:
            os.close(fd)
        for name, status in below:
            if stat.S_ISSOCK(status.st_mode):
                continue
            entry = Entry.of(number, name, status)
            if status.st_nlink > 1 and entry.kind != stat.S_IFDIR:
                first = first_names.setdefault(status.st_ino, len(found))
                entry.link = first if first < len(found) else None
            found.append(entry)
            paths.append(f"{path}/{name}")
            if entry.link is None:
                _look_into(root_fd, paths[-1], entry, status.st_size)
    return found


def _look_into(root_fd: int, path: str, entry: Entry, size: int) -> None:
    if entry.kind == stat.S_IFLNK:
        entry.target = os.readlink(path, dir_fd=root_fd)
    elif entry.kind == stat.S_IFREG and size:
        fd = os.open(path, _READ, dir_fd=root_fd)
        try:
            entry.size, entry.extents = size, tuple(extents(fd, size))
        finally:
            os.close(fd)


def _brief(entry: Entry) -> dict[str, Any]:
    """Without what is as it is by default."""
    values = ((name, getattr(entry, name)) for name in Entry.__slots__)
    return {name: value for name, value in values if value or name in _ALWAYS}


_ALWAYS = frozenset(("parent", "name", "mode", "uid", "gid", "atime_ns", "mtime_ns"))


def _paths(tree: list[Entry]) -> Iterator[tuple[str, Entry]]:
    """Every entry with its path from the root, directories before what is in them."""
    paths: list[str] = []
    for entry in tree:
        paths.append(f"{paths[entry.parent]}/{entry.name}" if paths else ".")
        yield paths[-1], entry


def _header(line: bytes) -> dict[str, list[Entry]]:
    match json.loads(line):
        case {"trees": dict(trees)}:
            return {name: _tree(entries) for name, entries in trees.items()}
    raise ValueError("it is no archive of trees")


def _tree(entries: Any) -> list[Entry]:
    if not isinstance(entries, list) or not entries:
        raise ValueError("a tree without a root")
    tree: list[Entry] = []
    for data in entries:
        tree.append(Entry.from_json(data, tree))
    return tree


def _fill(root_fd: int, tree: list[Entry], data_fd: int) -> None:
    """Only directories that were made here are passed through: no path leads out of the tree."""
    paths = [path for path, _ in _paths(tree)]
    for number, entry in enumerate(tree):
        if entry.link is not None:
            first, here = paths[entry.link], {"src_dir_fd": root_fd, "dst_dir_fd": root_fd}
            os.link(first, paths[number], **here, follow_symlinks=False)
            continue
        if number:
            _make(root_fd, paths[number], entry, data_fd)
        os.chown(paths[number], entry.uid, entry.gid, dir_fd=root_fd, follow_symlinks=False)
        if entry.kind != stat.S_IFLNK:
            os.chmod(paths[number], stat.S_IMODE(entry.mode), dir_fd=root_fd)
    # the last, and from the inside out: what is made in a directory changes its time
    for path, entry in zip(reversed(paths), reversed(tree), strict=True):
        times = (entry.atime_ns, entry.mtime_ns)
        os.utime(path, ns=times, dir_fd=root_fd, follow_symlinks=False)


def _make(root_fd: int, path: str, entry: Entry, data_fd: int) -> None:
    if entry.kind == stat.S_IFDIR:
        os.mkdir(path, 0o700, dir_fd=root_fd)
    elif entry.kind == stat.S_IFLNK:
        os.symlink(entry.target, path, dir_fd=root_fd)
    elif entry.kind == stat.S_IFREG:
        _copy_to(root_fd, path, entry, data_fd)
    else:
        os.mknod(path, entry.kind | 0o600, entry.device, dir_fd=root_fd)


def _copy_from(root_fd: int, path: str, entry: Entry, to_fd: int) -> None:
    fd = os.open(path, _READ, dir_fd=root_fd)
    try:
        for start, size in entry.extents:
            _send(to_fd, fd, start, size)
    finally:
        os.close(fd)


def _copy_to(root_fd: int, path: str, entry: Entry, from_fd: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600, dir_fd=root_fd)
    try:
        os.ftruncate(fd, entry.size)
        for start, size in entry.extents:
            os.lseek(fd, start, os.SEEK_SET)
            _send(fd, from_fd, None, size)
    finally:
        os.close(fd)


def _send(to_fd: int, from_fd: int, start: int | None, size: int) -> None:
    """start: None for where *from_fd* stands."""
    while size:
        sent = os.sendfile(to_fd, from_fd, start, size)
        if not sent:
            raise OSError(errno.EIO, "a file ended early")
        start = None if start is None else start + sent
        size -= sent


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
