"""Trees packed into one file and back: nothing lost, and nothing believed of an archive."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.checkpoint.tmpfs import Tmpfs, movable
from runtime.checkpoint.tree_archive import pack, unpack
from runtime.rootfs.mountinfo import MountInfo

SPARSE = 1 << 30


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(stack: ExitStack, directory: Path) -> int:
    directory.mkdir(exist_ok=True)
    fd = os.open(directory, os.O_RDONLY)
    stack.callback(os.close, fd)
    return fd


def seen(root: Path) -> dict[str, tuple[object, ...]]:
    """All that matters of a tree."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (root, *sorted(root.rglob("*"))):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = (status.st_size, status.st_nlink, path.read_bytes()[: 1 << 20])
        found[str(path.relative_to(root))] = (
            stat.filemode(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            content,
        )
    return found


def test_a_tree_comes_back_as_it_was(tmp_path: Path, stack: ExitStack) -> None:
    source = opened(stack, tmp_path / "source")
    root = tmp_path / "source"
    (root / "a" / "deep one").mkdir(parents=True)
    (root / "a" / "file").write_bytes(bytes(range(256)) * 300)
    (root / "empty").touch()
    os.link(root / "a" / "file", root / "same")
    os.mkfifo(root / "fifo", 0o622)
    (root / "link").symlink_to("/etc/passwd")
    os.link(root / "link", root / "another", follow_symlinks=False)
    (root / "a").chmod(0o1751)
    (root / os.fsdecode(b"\xff")).write_text("no UTF-8")
    for number, path in enumerate(root.rglob("*")):
        os.utime(path, ns=(number, 10**18 + number), follow_symlinks=False)
    pack(tmp_path / "archive", {"/dev": source, "/run": opened(stack, tmp_path / "none")})
    found, empty = tmp_path / "found", tmp_path / "empty"
    unpack(tmp_path / "archive", {"/dev": opened(stack, found), "/run": opened(stack, empty)})
    assert seen(found) == seen(root)
    assert (found / "same").samefile(found / "a" / "file")
    assert list(empty.iterdir()) == []


def test_holes_stay_holes(tmp_path: Path, stack: ExitStack) -> None:
    source, found = opened(stack, tmp_path / "source"), opened(stack, tmp_path / "found")
    with (tmp_path / "source" / "file").open("wb") as file:
        file.seek(SPARSE // 2)
        file.write(b"in the middle")
        file.truncate(SPARSE)
    pack(tmp_path / "archive", {"t": source})
    assert (tmp_path / "archive").stat().st_size < 1 << 20
    unpack(tmp_path / "archive", {"t": found})
    with (tmp_path / "found" / "file").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == SPARSE
        file.seek(SPARSE // 2)
        assert file.read(13) == b"in the middle"
        assert file.read(100) == bytes(100)
    assert (tmp_path / "found" / "file").stat().st_blocks * 512 < 1 << 20


def entry(name: str, mode: int = stat.S_IFREG | 0o600, **more: Any) -> dict[str, Any]:
    plain = {"parent": 0, "uid": os.getuid(), "gid": os.getgid(), "atime_ns": 0, "mtime_ns": 0}
    return plain | {"name": name, "mode": mode} | more


ROOT = entry("", stat.S_IFDIR | 0o755)
LINK = entry("up", stat.S_IFLNK | 0o777, target="..")

HOSTILE: dict[str, list[Any]] = {
    "no root": [],
    "a file for a root": [entry("")],
    "a name that climbs": [ROOT, entry("..")],
    "a path": [ROOT, entry("a/../../b")],
    "a zero byte": [ROOT, entry("a\0")],
    "through a link": [ROOT, LINK, entry("b", parent=1)],
    "before its directory": [ROOT, entry("b", parent=2), entry("a", stat.S_IFDIR)],
    "below nothing": [ROOT, entry("b", parent=-1)],
    "a socket": [ROOT, entry("b", stat.S_IFSOCK)],
    "another name of a directory": [ROOT, entry("a", stat.S_IFDIR), entry("b", link=1)],
    "another name of itself": [ROOT, entry("b", link=1)],
    "another name of the root": [ROOT, entry("b", link=0)],
    "more bytes than size": [ROOT, entry("b", size=1, extents=[[0, 2]])],
    "bytes before the start": [ROOT, entry("b", size=1, extents=[[-1, 1]])],
    "bytes twice": [ROOT, entry("b", size=2, extents=[[0, 1], [0, 1]])],
    "bytes that are missing": [ROOT, entry("b", size=5, extents=[[0, 5]])],
    "a field too many": [ROOT, entry("b", colour=1)],
    "numbers as text": [ROOT, entry("b", uid="0")],
    "an owner that cannot be": [ROOT, entry("b", uid=1 << 70)],
    "a time that cannot be": [ROOT, entry("b", mtime_ns=1 << 90)],
    "no entries": [1, 2],
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path: Path, stack: ExitStack, how: str) -> None:
    (tmp_path / "archive").write_text(json.dumps({"trees": {"t": HOSTILE[how]}}) + "\n")
    with pytest.raises(ValueError, match=r"\w"):
        unpack(tmp_path / "archive", {"t": opened(stack, tmp_path / "found")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "found"]


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"trees": []}', '{"trees": {}}'])
def test_what_is_no_archive_is_refused(tmp_path: Path, stack: ExitStack, text: str) -> None:
    (tmp_path / "archive").write_text(text)
    with pytest.raises(ValueError, match=r"\w"):
        unpack(tmp_path / "archive", {"t": opened(stack, tmp_path / "found")})


JSON = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.sampled_from(sorted({*ROOT, "link", "size", "extents", "device", "target"})), JSON)
def test_whatever_a_field_holds_it_is_made_or_refused(
    tmp_path: Path, field: str, value: Any
) -> None:
    tree = [ROOT, entry("a") | {field: value}]
    (tmp_path / "archive").write_text(json.dumps({"trees": {"t": tree}}) + "\n")
    place = tmp_path / os.urandom(8).hex()
    with ExitStack() as stack:
        try:
            unpack(tmp_path / "archive", {"t": opened(stack, place)})
        except (ValueError, OSError):
            return
    assert len(list(place.iterdir())) == 1


TMPFS = MountInfo(9, "/dev/shm", "/", 5, (), "tmpfs", "shm", ("rw", "size=65536k", "mode=755"))


def test_a_tmpfs_is_moved_with_its_options() -> None:
    assert movable([TMPFS], []) == [Tmpfs("/dev/shm", "shm", ("size=65536k", "mode=755"))]


@pytest.mark.parametrize(
    "left_to_criu",
    [
        {"fstype": "ramfs"},
        {"root": "/sub"},
        {"propagation": ("shared:1",)},
        {"options": ("ro",)},
        {"options": ("rw", "huge=always")},
        {"point": "/with blank"},
        {"point": "/"},
    ],
    ids=str,
)
def test_other_mounts_are_left_to_criu(left_to_criu: dict[str, Any]) -> None:
    assert movable([TMPFS._replace(**left_to_criu)], []) == []


def test_what_is_external_or_covered_is_left_to_criu() -> None:
    assert movable([TMPFS], ["/dev/shm"]) == []
    assert movable([TMPFS, TMPFS._replace(id=10, fstype="ext4")], []) == []


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"point": "/x/../..", "source": "s", "options": []},
        {"point": "x", "source": "s", "options": []},
        {"point": "/x]", "source": "s", "options": []},
        {"point": "/x", "source": "s\n", "options": []},
        {"point": "/x", "source": "s", "options": ["context=x"]},
        {"point": "/x", "source": "s", "options": [1]},
    ],
)
def test_a_tmpfs_of_nonsense_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Tmpfs.from_json(data)
