"""`migrator state`: what the OCI runtime-spec calls the state, and what runc adds to it."""

from __future__ import annotations

import json

from migrator.commands._common import on_container
from migrator.commands._described import described
from migrator.commands._verb import verb
from runtime.container import Container


@verb()
@on_container
def command(container: Container) -> None:
    """Print the state of CONTAINER as JSON."""
    print(json.dumps(described(container), indent=2))
