"""`migrator delete`: remove what is left of a container."""

from __future__ import annotations

import click

from migrator.commands._common import Settings, id_argument, pass_settings, verb
from runtime.container import Container


@verb()
@id_argument
@click.option("-f", "--force", is_flag=True, help="Kill it first; no error if there is none.")
@pass_settings
def command(settings: Settings, container_id: str, force: bool) -> None:
    """Remove a stopped CONTAINER: its state, cgroups and network; its bundle stays."""
    Container.remove(settings.root, container_id, force=force)
