"""`migrator restore`: make a container out of an image directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from migrator.commands._common import (
    DIRECTORY,
    FILE,
    Settings,
    console_socket_option,
    criu_options,
    pass_settings,
    refused,
    verb,
)


def _pairs(ctx: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, _, value in pairs:
        if not name or not value:
            raise click.BadParameter(f"{name!r} is not of the form {option.metavar}", ctx, option)
    return {name: value for name, _, value in pairs}


@verb()
@click.argument("container_id", metavar="CONTAINER")
@click.option(
    "-b",
    "--bundle",
    type=DIRECTORY,
    default=".",
    help="Where config.json and the rootfs are.  [default: the current directory]",
)
@criu_options
@click.option("-d", "--detach", is_flag=True, help="Return once it runs.")
@click.option("--pid-file", type=FILE, help="Write the process id of its init to this file.")
@click.option(
    "veths",
    "--veth",
    multiple=True,
    metavar="NAME=HOST_END[@BRIDGE]",
    callback=_pairs,
    help="What the host's end of its interface NAME is called here.",
)
@click.option(
    "bridges",
    "--bridge",
    multiple=True,
    metavar="OLD=NEW",
    callback=_pairs,
    help="The bridge here in place of the one it was on.",
)
@click.option("--tcp-close", is_flag=True, help="Have its connections come up closed.")
@click.option("--lsm-profile", metavar="TYPE:NAME", help="Security profile of its processes.")
@click.option("--lsm-mount-context", metavar="CONTEXT", help="SELinux context of its mounts.")
@click.option(
    "--lazy-pages", is_flag=True, help="Its memory comes from a lazy-pages server in the work path."
)
@click.option("--no-subreaper", is_flag=True, expose_value=False, hidden=True)
@click.option("--network-lock", expose_value=False, hidden=True)  # the images say which it was
@console_socket_option
@refused("--no-pivot")
@pass_settings
def command(
    settings: Settings,
    container_id: str,
    bundle: Path,
    image_path: Path,
    manage_cgroups_mode: str,
    detach: bool,
    **options: Any,
) -> int:
    """Make CONTAINER out of an image directory: it goes on where `migrator checkpoint` ended it.

    What led out of it - pipes, log files - leads to our own standard input, output and error.
    """
    from criu_rpc import ManageCgroups
    from runtime.process.stdio import Stdio
    from runtime.restore import RestoreOptions, restore

    request = RestoreOptions(
        image_path=image_path.absolute(),
        manage_cgroups_mode=ManageCgroups[manage_cgroups_mode.upper()],
        stdio=Stdio.inherited(),
        criu=settings.criu,
        systemd_cgroup=settings.systemd_cgroup,
        **options,
    )
    return restore(settings.root, container_id, bundle, request, detach=detach)
