"""`migrator resume`: thaw a paused container."""

from __future__ import annotations

from migrator.commands._common import on_container, verb
from runtime.container import Container


@verb()
@on_container
def command(container: Container) -> None:
    """Let all processes of a paused CONTAINER go on."""
    container.resume()
