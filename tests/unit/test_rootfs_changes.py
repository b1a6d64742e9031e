"""A tree that is looked at twice: what must be seen of it, and when it cannot be told."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from migrator.rootfs_changes import Snapshot


def settle() -> None:
    """Let the clock of file times tick on: a change just before a look hides one just after."""
    time.sleep(0.03)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "etc/deep").mkdir(parents=True)
    (tmp_path / "etc/file").write_text("text")
    (tmp_path / "etc/link").symlink_to("file")
    settle()
    return tmp_path


def keep_times(path: Path, change: Callable[[], object]) -> None:
    """Do *change*, and set the times back as well as one can."""
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda tree: (tree / "etc/file").write_text("TEXT"),
    "content with its old time": lambda tree: keep_times(
        tree / "etc/file", lambda: (tree / "etc/file").write_text("TEXT")
    ),
    "permissions": lambda tree: (tree / "etc/deep").chmod(0o700),
    "an attribute": lambda tree: os.setxattr(tree / "etc/file", "user.x", b"1"),
    "another name": lambda tree: os.link(tree / "etc/file", tree / "etc/deep/same"),
    "a new file": lambda tree: (tree / "etc/deep/new").touch(),
    "a new directory": lambda tree: (tree / "new").mkdir(),
    "one less": lambda tree: (tree / "etc/link").unlink(),
    "another in its place": lambda tree: (tree / "etc/file").rename(tree / "etc/link"),
    "all gone": lambda tree: tree.rename(tree.with_name("elsewhere")),
}


def test_a_tree_that_is_only_read_holds(tree: Path) -> None:
    snapshot = Snapshot.of(tree)
    assert (tree / "etc/file").read_text() == "text"
    assert list(tree.rglob("*"))
    settle()
    assert snapshot.holds()
    assert snapshot.holds()


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_seen(tree: Path, what: str) -> None:
    snapshot = Snapshot.of(tree)
    settle()
    CHANGES[what](tree)
    assert not snapshot.holds()


def test_what_has_just_changed_may_change_unseen(tree: Path) -> None:
    (tree / "etc/file").write_text("TEXT")
    assert not Snapshot.of(tree).holds()


def test_what_is_not_there_does_not_hold(tmp_path: Path) -> None:
    assert not Snapshot.of(tmp_path / "nothing").holds()
