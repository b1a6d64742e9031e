"""The directory that a dump is written into: made, and left with one dump's images or with none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from criu_rpc.images import PARENT
from runtime.checkpoint.records import CHAIN_FILE, DESCRIPTORS_FILE, RECORD_FILE

_NOT_CRIUS = (RECORD_FILE, DESCRIPTORS_FILE, CHAIN_FILE, PARENT)


@contextmanager
def written(images_dir: Path, work_dir: Path | None) -> Iterator[None]:
    """Make the directories for a dump that is the block.

    Images of a former dump go when there are new ones; when the block fails, what is new goes. Logs
    and statistics always stay. Raises OSError, which names the directory.
    """
    for directory in filter(None, (images_dir, work_dir)):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = _images(images_dir)
    try:
        yield
    except BaseException:
        for name in _images(images_dir).keys() - before.keys():
            (images_dir / name).unlink()
        raise
    for name, _ in before.items() & _images(images_dir).items():
        (images_dir / name).unlink()


def _images(directory: Path) -> dict[str, tuple[int, int]]:
    """The images in *directory*, each with what changes when it is written anew."""
    return {
        path.name: (status.st_ino, status.st_mtime_ns)
        for path in directory.iterdir()
        if path.suffix == ".img" or path.name in _NOT_CRIUS
        for status in (path.stat(follow_symlinks=False),)
    }
