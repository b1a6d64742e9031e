"""`migrator run`: create and start, and in the foreground wait and delete too."""

from __future__ import annotations

from typing import Any

import click

from migrator.commands._activation import manager
from migrator.commands._common import creates_container, verb
from runtime.container import Container


@verb()
@creates_container
@click.option("-d", "--detach", is_flag=True, help="Return once it has started; do not delete it.")
@click.option("--keep", is_flag=True, help="Do not delete it when it has ended.")
@click.option("--no-subreaper", is_flag=True, expose_value=False, hidden=True)
def command(**request: Any) -> int:
    """Create CONTAINER from a bundle, start it, and wait; the exit code is its process's.

    Signals that come meanwhile are passed on to it.
    """
    return Container.run(manager=manager(), **request)
