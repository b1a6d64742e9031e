"""`migrator state`: what the OCI runtime-spec calls the state, and what runc adds to it."""

from __future__ import annotations

import json

import click

from migrator.commands._common import on_container, verb
from migrator.commands._described import described
from runtime.container import Container


@verb()
@on_container
def command(container: Container) -> None:
    """Print the state of CONTAINER as JSON."""
    click.echo(json.dumps(described(container), indent=2))
