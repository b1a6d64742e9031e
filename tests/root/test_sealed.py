"""A program by a descriptor through which nobody can write to it (CVE-2019-5736)."""

import errno
import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.process.sealed import sealed

pytestmark = pytest.mark.needs_root


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """A program of one's own, in case it can be written after all."""
    return Path(shutil.copy("/bin/echo", tmp_path))


def test_it_runs_and_cannot_be_written(echo: Path) -> None:
    before = echo.read_bytes()
    fd = sealed(str(echo))
    try:
        path = f"/proc/self/fd/{fd}"
        said = subprocess.run([path, "runs"], pass_fds=[fd], capture_output=True, check=True)
        assert said.stdout == b"runs\n"
        with pytest.raises(OSError, match="Read-only") as refused:
            os.open(path, os.O_WRONLY)
        assert refused.value.errno == errno.EROFS
    finally:
        os.close(fd)
    assert echo.read_bytes() == before


def test_without_overlayfs_below_it_the_mount_alone_is_read_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "runtime")
    fd = sealed("/proc/self/exe")  # no layer of an overlay can be a /proc
    try:
        assert os.fstatvfs(fd).f_flag & os.ST_RDONLY
    finally:
        os.close(fd)
    assert "overlayfs" not in caplog.text
