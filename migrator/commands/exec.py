"""`migrator exec`: another process in a running container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from migrator.commands._common import CONSOLE_SOCKET, PIDFD_SOCKET, PRESERVE_FDS, on_container
from migrator.commands._options import FILE, integer
from migrator.commands._process import process_for
from migrator.commands._verb import argument, option, taking, verb
from migrator.errors import UsageProblem
from runtime.cgroups.sub import SubCgroups, parse
from runtime.container import Container
from runtime.process.stdio import Stdio
from runtime.process.terminal import Terminal


def _sub_cgroups(texts: tuple[str, ...]) -> SubCgroups:
    try:
        return parse(texts)
    except ValueError as exc:
        raise UsageProblem(f"--cgroup: {exc}") from None


@verb(passes_arguments=True)
@on_container
@argument("args", metavar="[COMMAND [ARGUMENT]...]", many=True)
@option("-p", "--process", "file", kind=FILE, help="All of it as JSON: OCI's process object.")
@option("--cwd", metavar="DIR", help="Its working directory.")
@option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="More environment.")
@option("-u", "--user", metavar="UID[:GID]", help="Who it runs as.")
@option(
    "-g", "--additional-gids", kind=integer(), multiple=True, metavar="GID", help="More groups."
)
@option("-c", "--cap", "caps", multiple=True, metavar="CAP_NAME", help="More capabilities.")
@option("--no-new-privs", flag=True, help="It can gain none (prctl(2)).")
@option("-t", "--tty", flag=True, help="It has a terminal of the container's.")
@option("-d", "--detach", flag=True, help="Return once it has started.")
@option("--pid-file", kind=FILE, help="Write its process id to this file.")
@taking(PRESERVE_FDS)
@option(
    "sub_cgroups",
    "--cgroup",
    multiple=True,
    metavar="[CONTROLLER,...:]PATH",
    help="The cgroup below the container's that it is put into.",
)
@option("--apparmor", metavar="PROFILE", help="Its AppArmor profile.")
@option("--process-label", metavar="LABEL", help="Its SELinux label.")
@option("--ignore-paused", flag=True, help="In a paused container, start on resume.")
@taking(CONSOLE_SOCKET, PIDFD_SOCKET)
def command(
    container: Container,
    terminal: Terminal | None,
    pid_file: Path | None,
    preserve_fds: int,
    detach: bool,
    ignore_paused: bool,
    sub_cgroups: tuple[str, ...],
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
        sub_cgroups=_sub_cgroups(sub_cgroups),
        pidfd_socket=pidfd_socket,
    )
