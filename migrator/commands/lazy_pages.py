"""`migrator lazy-pages`: bring the pages of a lazy restore from its image directory."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from migrator.commands._common import DIRECTORY, verb

logger = logging.getLogger(__name__)


@verb()
@click.option(
    "image_path",
    "--image-path",
    "--images-dir",
    "-D",
    type=DIRECTORY,
    default="checkpoint",
    show_default=True,
    help="The image directory that is restored.",
)
@click.option(
    "work_path",
    "--work-path",
    "--work-dir",
    "-W",
    type=DIRECTORY,
    help="Where criu works, and looks for the server.  [default: the image directory]",
)
@click.option("--status-fd", type=int, metavar="FD", help="Write a byte here when it listens.")
@click.option("-d", "--detach", is_flag=True, help="Return when it listens.")
def command(image_path: Path, work_path: Path | None, status_fd: int | None, detach: bool) -> None:
    """Serve the memory of processes that `criu restore --lazy-pages` restores.

    It ends when every page is there. Interrupted, it leaves the serving to the background: a
    restored process must not lose its memory.
    """
    from runtime.memory.lazy.images import read_images
    from runtime.memory.lazy.launch import LazyPages

    images = read_images(image_path.absolute())
    work_dir = (work_path or image_path).absolute()
    with LazyPages.start(work_dir, images.plan, expected=images.expected) as lazy:
        lazy.load(images.lazy)
        if status_fd is not None:
            os.write(status_fd, b"\0")
            os.close(status_fd)
        if not detach:
            lazy.wait()
            logger.info("%s", lazy.progress)
