"""A tree is removed whatever a container has made of it."""

import os
from pathlib import Path

from migrator.removal import remove_tree


def deep(top: Path, levels: int) -> None:
    """Directories in each other, deeper than a path is long, each with a file."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
        os.mkdir("directory", dir_fd=fd)
        fd, former = os.open("directory", os.O_RDONLY, dir_fd=fd), fd
        os.close(former)
    os.close(fd)


def test_a_tree_of_any_depth(tmp_path: Path) -> None:
    deep(tmp_path / "top", 2000)
    remove_tree(tmp_path / "top")
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "top/below").mkdir(parents=True)
    (tmp_path / "top/below/link").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "top")
    assert (tmp_path / "kept/file").exists()
    assert not (tmp_path / "top").exists()


def test_what_is_no_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    for name in ("link", "none"):
        remove_tree(tmp_path / name)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["kept", "link"]
