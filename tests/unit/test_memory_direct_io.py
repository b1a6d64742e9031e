"""Which processes have devices write to their memory."""

import os
from pathlib import Path

from runtime.memory.direct_io import direct_io


def test_a_file_open_for_direct_io_tells(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert not direct_io(os.getpid())
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        assert direct_io(os.getpid())
    finally:
        os.close(fd)


def test_a_process_that_is_gone_has_none() -> None:
    assert not direct_io(2**22 - 1)
