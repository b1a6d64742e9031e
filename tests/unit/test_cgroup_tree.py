"""Making cgroups while others remove theirs."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from runtime.cgroups import tree
from runtime.errors import CgroupError


def test_a_parent_that_another_removes_meanwhile_is_made_again(tmp_path: Path) -> None:
    wanted = tmp_path / "common" / "box"
    prepared: list[Path] = []

    def prepare(directory: Path) -> None:
        prepared.append(directory)
        if len(prepared) == 1:
            directory.rmdir()  # another container's end; its files then say ENODEV
            raise CgroupError(directory, "cannot be read") from OSError(errno.ENODEV, "")

    assert tree.make(wanted, prepare)[-1] == wanted
    assert wanted.is_dir()
    assert prepared == [wanted.parent, wanted.parent, wanted]


def test_what_cannot_be_prepared_leaves_nothing(tmp_path: Path) -> None:
    def prepare(directory: Path) -> None:
        raise CgroupError(directory, "cannot be read") from OSError(errno.EACCES, "")

    with pytest.raises(CgroupError):
        tree.make(tmp_path / "common" / "box", prepare)
    assert not list(tmp_path.iterdir())
