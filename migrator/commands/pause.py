"""`migrator pause`: freeze a container by its cgroup."""

from __future__ import annotations

from migrator.commands._common import on_container
from migrator.commands._verb import verb
from runtime.container import Container


@verb()
@on_container
def command(container: Container) -> None:
    """Freeze all processes of CONTAINER; `migrator resume` lets them go on."""
    container.pause()
