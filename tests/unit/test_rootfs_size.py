"""What a tree takes on disk, asked while files come and go in it."""

import os
import threading
from pathlib import Path

from migrator.rootfs import size_bytes


def test_hard_links_count_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 16))
    alone = size_bytes(tmp_path)
    os.link(tmp_path / "file", tmp_path / "link")
    assert size_bytes(tmp_path) == alone >= 1 << 16


def test_what_vanishes_meanwhile_is_no_error(tmp_path: Path) -> None:
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            (tmp_path / "directory").mkdir()
            (tmp_path / "directory/file").touch()
            os.rename(tmp_path / "directory/file", tmp_path / "file")
            (tmp_path / "directory").rmdir()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(500):
            size_bytes(tmp_path)
    finally:
        done.set()
        thread.join()
