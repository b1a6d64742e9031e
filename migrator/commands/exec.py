"""`migrator exec`: another process in a running container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from migrator.commands._common import (
    FILE,
    console_socket_option,
    on_container,
    pidfd_socket_option,
    verb,
)
from migrator.commands._process import process_for
from runtime.cgroups.sub import SubCgroups, parse
from runtime.container import Container
from runtime.process.stdio import Stdio
from runtime.process.terminal import Terminal


def _sub_cgroups(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> SubCgroups:
    try:
        return parse(texts)
    except ValueError as exc:
        raise click.UsageError(f"--cgroup: {exc}") from None


@verb(passes_arguments=True)
@on_container
@click.argument("args", metavar="[COMMAND [ARGUMENT]...]", nargs=-1, type=click.UNPROCESSED)
@click.option("-p", "--process", "file", type=FILE, help="All of it as JSON: OCI's process object.")
@click.option("--cwd", metavar="DIR", help="Its working directory.")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="More environment.")
@click.option("-u", "--user", metavar="UID[:GID]", help="Who it runs as.")
@click.option(
    "-g", "--additional-gids", type=int, multiple=True, metavar="GID", help="More groups."
)
@click.option("-c", "--cap", "caps", multiple=True, metavar="CAP_NAME", help="More capabilities.")
@click.option("--no-new-privs", is_flag=True, help="It can gain none (prctl(2)).")
@click.option("-t", "--tty", is_flag=True, help="It has a terminal of the container's.")
@click.option("-d", "--detach", is_flag=True, help="Return once it has started.")
@click.option("--pid-file", type=FILE, help="Write its process id to this file.")
@click.option(
    "--preserve-fds",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Pass on N descriptors after the standard three.",
)
@click.option(
    "sub_cgroups",
    "--cgroup",
    multiple=True,
    metavar="[CONTROLLER,...:]PATH",
    callback=_sub_cgroups,
    help="The cgroup below the container's that it is put into.",
)
@click.option("--apparmor", metavar="PROFILE", help="Its AppArmor profile.")
@click.option("--process-label", metavar="LABEL", help="Its SELinux label.")
@click.option("--ignore-paused", is_flag=True, help="In a paused container, start on resume.")
@console_socket_option
@pidfd_socket_option
def command(
    container: Container,
    terminal: Terminal | None,
    pid_file: Path | None,
    preserve_fds: int,
    detach: bool,
    ignore_paused: bool,
    sub_cgroups: SubCgroups,
    pidfd_socket: Path | None,
    **wanted: Any,
) -> int:
    """Run COMMAND in a running CONTAINER, as its own process runs but for the options.

    The exit code is the command's; 255 if it could not be run.
    """
    return container.exec(
        process_for(container, **wanted),
        stdio=Stdio.inherited(),
        terminal=terminal,
        pid_file=pid_file,
        preserve_fds=preserve_fds,
        detach=detach,
        ignore_paused=ignore_paused,
        sub_cgroups=sub_cgroups,
        pidfd_socket=pidfd_socket,
    )
