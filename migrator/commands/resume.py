"""`migrator resume`: thaw a paused container."""

from __future__ import annotations

from migrator.commands._common import on_container
from migrator.commands._verb import verb
from runtime.container import Container


@verb()
@on_container
def command(container: Container) -> None:
    """Let all processes of a paused CONTAINER go on."""
    from migrator.journal import ensure_no_migration

    ensure_no_migration(container.root, container.id)
    container.resume()
