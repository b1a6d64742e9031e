"""`migrator restore`: make a container out of an image directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrator.commands._common import BUNDLE, CONSOLE_SOCKET, CRIU, NEW_ID, NO_SUBREAPER, PID_FILE
from migrator.commands._options import Kind
from migrator.commands._verb import option, pass_settings, taking, verb

if TYPE_CHECKING:
    from migrator.commands._globals import Settings


def _pair(form: str) -> dict[str, Any]:
    """What an option for pairs of that form is declared by."""

    def convert(text: str) -> tuple[str, str]:
        name, _, value = text.partition("=")
        if not name or not value:
            raise ValueError(f"{text!r} is not of the form {form}")
        return name, value

    return {"kind": Kind(convert), "metavar": form, "multiple": True}


@verb()
@taking(NEW_ID, BUNDLE, *CRIU)
@option("-d", "--detach", flag=True, help="Return once it runs.")
@taking(PID_FILE)
@option(
    "veths",
    "--veth",
    **_pair("NAME=HOST_END[@BRIDGE]"),
    help="What the host's end of its interface NAME is called here.",
)
@option(
    "bridges",
    "--bridge",
    **_pair("OLD=NEW"),
    help="The bridge here in place of the one it was on.",
)
@option("--tcp-close", flag=True, help="Have its connections come up closed.")
@option("--lsm-profile", metavar="TYPE:NAME", help="Security profile of its processes.")
@option("--lsm-mount-context", metavar="CONTEXT", help="SELinux context of its mounts.")
@option(
    "--lazy-pages", flag=True, help="Its memory comes from a lazy-pages server in the work path."
)
@option("--network-lock", unused=True)  # the images say which it was
@option("--no-pivot", flag=True, refused="cannot be had: CRIU changes the root by pivot_root(2)")
@taking(NO_SUBREAPER, CONSOLE_SOCKET)
@pass_settings
def command(
    settings: Settings,
    container_id: str,
    bundle: Path,
    image_path: Path,
    manage_cgroups_mode: str,
    veths: tuple[tuple[str, str], ...],
    bridges: tuple[tuple[str, str], ...],
    detach: bool,
    subreaper: bool,
    **options: Any,
) -> int:
    """Make CONTAINER out of an image directory: it goes on where `migrator checkpoint` ended it.

    What led out of it - pipes, log files - leads to our own standard input, output and error.
    """
    from criu_rpc import ManageCgroups
    from runtime.checkpoint.restore import restore
    from runtime.checkpoint.restore_options import RestoreOptions
    from runtime.process.stdio import Stdio

    request = RestoreOptions(
        image_path=image_path.absolute(),
        manage_cgroups_mode=ManageCgroups[manage_cgroups_mode.upper()],
        stdio=Stdio.inherited(),
        criu=settings.criu,
        systemd_cgroup=settings.systemd_cgroup,
        veths=dict(veths),
        bridges=dict(bridges),
        **options,
    )
    return restore(settings.root, container_id, bundle, request, detach=detach, subreaper=subreaper)
