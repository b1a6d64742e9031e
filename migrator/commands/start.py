"""`migrator start`: let a created container's process begin."""

from __future__ import annotations

from migrator.commands._activation import manager
from migrator.commands._common import on_container
from migrator.commands._verb import verb
from runtime.container import Container


@verb()
@on_container
def command(container: Container) -> None:
    """Start the process of a created CONTAINER."""
    container.start(manager=manager())
