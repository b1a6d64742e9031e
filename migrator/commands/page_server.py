"""`migrator page-server`: serve the pages of an image directory to a restore on another host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator.commands._common import DIRECTORY, Settings, pass_settings, verb
from migrator.commands._pages import (
    address_option,
    check_privacy,
    criu_daemon,
    criu_options,
    say_ready,
    status_fd,
    tls_options,
)

if TYPE_CHECKING:
    from migrator.page_link import Address, Certificates


@verb()
@click.option(
    "image_path",
    "--image-path",
    "--images-dir",
    "--images",
    "-D",
    type=DIRECTORY,
    default="checkpoint",
    show_default=True,
    help="The image directory, whole.",
)
@address_option(
    "--listen",
    required=True,
    help="Where; port 0 takes a free one, which is printed.",
)
@click.option("--keep", is_flag=True, help="Go on when a client has all its pages.")
@tls_options
@status_fd
@criu_daemon
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
            raise click.UsageError("CRIU's page server has no --keep, and needs a port")
        return _by_criu(settings, image_path.absolute(), address, certificates, status_fd)

    from migrator.page_server import PageServer
    from runtime.memory.lazy.split_images import StoredPages

    context = certificates.context(server=True) if certificates else None
    with (
        StoredPages(image_path) as pages,
        PageServer(address, context, pages, keep=keep) as server,
    ):
        click.echo(f"listening on {server.address}")
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
