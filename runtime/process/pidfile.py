"""The file that tells a supervisor the pid of a container's process."""

from __future__ import annotations

from pathlib import Path

from runtime.oserrors import failing
from runtime.state import write_atomic


def write(path: Path, pid: int) -> None:
    """Write *pid* to *path* so that a reader sees all of it or no file."""
    with failing(f"writing the pid file {path}"):
        write_atomic(path, str(pid).encode(), mode=0o644)
