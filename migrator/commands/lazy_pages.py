"""`migrator lazy-pages`: bring the pages of a lazy restore, from its images or a page server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from criu_rpc.logger import Logger
from migrator.commands._options import DIRECTORY, Kind
from migrator.commands._pages import (
    CRIU_DAEMON,
    STATUS_FD,
    address_option,
    check_privacy,
    criu_options,
    say_ready,
    tls_options,
)
from migrator.commands._verb import option, pass_settings, taking, verb
from migrator.errors import UsageProblem

if TYPE_CHECKING:
    from migrator.commands._globals import Settings
    from migrator.pages.client import Link
    from migrator.pages.connection import Address, Certificates

logger = Logger(__name__)


def _seconds(text: str) -> float:
    if (seconds := float(text)) <= 0:
        raise ValueError(f"{text} is not in the range x>0")
    return seconds


@verb()
@option(
    "image_path",
    "--image-path",
    "--images-dir",
    "-D",
    kind=DIRECTORY,
    default="checkpoint",
    show_default=True,
    help="The image directory that is restored.",
)
@option(
    "work_path",
    "--work-path",
    "--work-dir",
    "-W",
    kind=DIRECTORY,
    help="Where criu works, and looks for the server.  [default: the image directory]",
)
@address_option(
    "--page-server",
    help="Bring the pages from there: no pages-*.img is here.",
)
@option(
    "--give-up-after",
    kind=Kind(_seconds),
    metavar="SECONDS",
    help="End what was restored when the page server is away so long.  [default: never]",
)
@tls_options
@option("--tls-no-cn-verify", flag=True, help="Its certificate may be of another name.")
@taking(CRIU_DAEMON, STATUS_FD)
@option("-d", "--detach", flag=True, help="Return when it listens.")
@pass_settings
def command(
    settings: Settings,
    image_path: Path,
    work_path: Path | None,
    address: Address | None,
    give_up_after: float | None,
    certificates: Certificates | None,
    plain: bool,
    criu_daemon: bool,
    status_fd: int | None,
    detach: bool,
) -> None:
    """Serve the memory of processes that `criu restore --lazy-pages` restores.

    It ends when every page is there. Interrupted, it leaves the serving to the background: a
    restored process must not lose its memory. With a page server the connection is lost then, and
    who waits for a page waits until the same command connects again.
    """
    images, work_dir = image_path.absolute(), (work_path or image_path).absolute()
    if address is not None:
        check_privacy(address, certificates, plain=plain)
    elif certificates or plain or give_up_after:
        raise UsageProblem("TLS and --give-up-after are for a --page-server")
    if criu_daemon:
        if give_up_after:
            raise UsageProblem("CRIU's server has no --give-up-after: it never reconnects")
        options = ["--page-server", *criu_options(address, certificates)] if address else []
        _by_criu(settings, images, work_dir, options, status_fd, detach=detach)
    elif address is None:
        _from_images(images, work_dir, status_fd, detach=detach)
    elif detach:
        raise UsageProblem("--detach: the connection to the page server is this command's own")
    else:
        _from_page_server(images, work_dir, address, certificates, give_up_after, status_fd)


def _from_images(image_path: Path, work_dir: Path, status_fd: int | None, *, detach: bool) -> None:
    from runtime.memory.lazy.images import read_images
    from runtime.memory.lazy.launch import LazyPages

    images = read_images(image_path)
    with LazyPages.start(work_dir, images.plan, expected=images.expected) as lazy:
        lazy.load(images.lazy)
        say_ready(status_fd)
        if not detach:
            lazy.wait()
            logger.info("%s", lazy.progress)


def _from_page_server(
    image_path: Path,
    work_dir: Path,
    address: Address,
    certificates: Certificates | None,
    give_up_after_s: float | None,
    status_fd: int | None,
) -> None:
    from migrator.interrupts import Interrupts
    from migrator.pages import client
    from runtime.memory.lazy.launch import is_served
    from runtime.memory.lazy.split_images import identity

    context = certificates.context(server=False) if certificates else None
    link = client.Link(address, context, identity(image_path))
    with Interrupts(), client.alone(work_dir):
        if is_served(work_dir):
            logger.warning("%s is served: connecting its server again", work_dir)
            say_ready(status_fd)
            survivor = client.Survivor(work_dir)
            client.carry(link, work_dir, survivor.wait, give_up_after_s)
            survivor.check()
        else:
            _start(image_path, work_dir, link, give_up_after_s, status_fd)


def _start(
    image_path: Path,
    work_dir: Path,
    link: Link,
    give_up_after_s: float | None,
    status_fd: int | None,
) -> None:
    from migrator.pages import client
    from runtime.memory.lazy.brought_files import BroughtFiles
    from runtime.memory.lazy.launch import LazyPages
    from runtime.memory.lazy.split_images import read_split

    images = read_split(image_path)
    word = work_dir / client.LAST_WORD
    word.unlink(missing_ok=True)
    plan = {"kind": "remote", "give_up_after_s": give_up_after_s, "last_word": str(word)}
    with BroughtFiles(images) as files:
        client.bring(link, files, give_up_after_s)
        with LazyPages.start(work_dir, plan, expected=images.expected, discard=True) as lazy:
            lazy.load(images.lazy)
            say_ready(status_fd)
            client.carry(link, work_dir, lazy.wait)
            lazy.wait()
            word.unlink(missing_ok=True)
            logger.info("%s", lazy.progress)


def _by_criu(
    settings: Settings,
    image_path: Path,
    work_dir: Path,
    options: list[str],
    status_fd: int | None,
    *,
    detach: bool,
) -> None:
    from criu_rpc.daemons import CriuDaemon
    from criu_rpc.process import find_criu

    criu = find_criu(settings.criu)
    daemon = CriuDaemon.start(criu, "lazy-pages", image_path, work_dir, options)
    say_ready(status_fd)
    if not detach:
        daemon.wait()
