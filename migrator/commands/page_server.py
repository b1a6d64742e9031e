"""`migrator page-server`: serve the pages of an image directory to a restore on another host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from migrator.commands._options import DIRECTORY
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
    from migrator.pages.connection import Address, Certificates


@verb()
@option(
    "image_path",
    "--image-path",
    "--images-dir",
    "--images",
    "-D",
    kind=DIRECTORY,
    default="checkpoint",
    show_default=True,
    help="The image directory, whole.",
)
@address_option(
    "--listen",
    required=True,
    help="Where; port 0 takes a free one, which is printed.",
)
@option("--keep", flag=True, help="Go on when a client has all its pages.")
@tls_options
@taking(STATUS_FD, CRIU_DAEMON)
@pass_settings
def command(
    settings: Settings,
    image_path: Path,
    address: Address,
    certificates: Certificates | None,
    plain: bool,
    status_fd: int | None,
    criu_daemon: bool,
    keep: bool,
) -> None:
    """Serve the pages of a checkpoint to `migrator lazy-pages --page-server` on another host.

    It ends when they are all there. Lost connections may come again; it may be ended and started
    again too.
    """
    check_privacy(address, certificates, plain=plain)
    if criu_daemon:
        if keep or not address.port:
            raise UsageProblem("CRIU's page server has no --keep, and needs a port")
        return _by_criu(settings, image_path.absolute(), address, certificates, status_fd)

    from migrator.pages.server import PageServer
    from runtime.memory.lazy.split_images import StoredPages

    context = certificates.context(server=True) if certificates else None
    with (
        StoredPages(image_path) as pages,
        PageServer(address, context, pages, keep=keep) as server,
    ):
        print(f"listening on {server.address}", flush=True)
        say_ready(status_fd)
        server.serve_forever(poll_interval=0.05)


def _by_criu(
    settings: Settings,
    image_path: Path,
    address: Address,
    certificates: Certificates | None,
    status_fd: int | None,
) -> None:
    from criu_rpc.daemons import CriuDaemon
    from criu_rpc.process import find_criu

    # --lazy-pages: it gives pages instead of taking them (page-xfer.c: cr_page_server)
    options = ["--lazy-pages", *criu_options(address, certificates)]
    criu = find_criu(settings.criu)
    daemon = CriuDaemon.start(criu, "page-server", image_path, image_path, options)
    try:
        say_ready(status_fd)
        daemon.wait()
    except KeyboardInterrupt:
        daemon.terminate()
        raise
