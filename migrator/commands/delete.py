"""`migrator delete`: remove what is left of a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator.commands._common import ID
from migrator.commands._verb import option, pass_settings, taking, verb
from runtime.container import Container

if TYPE_CHECKING:
    from migrator.commands._globals import Settings


@verb()
@taking(ID)
@option("-f", "--force", flag=True, help="Kill it first; no error if there is none.")
@pass_settings
def command(settings: Settings, container_id: str, force: bool) -> None:
    """Remove a stopped CONTAINER: its state, cgroups and network; its bundle stays."""
    Container.remove(settings.root, container_id, force=force)
