"""`migrator run`: create and start, and in the foreground wait and delete too."""

from __future__ import annotations

from typing import Any

from migrator.commands._activation import manager
from migrator.commands._common import NO_SUBREAPER, creates_container
from migrator.commands._verb import option, taking, verb
from runtime.container import Container


@verb()
@creates_container
@option("-d", "--detach", flag=True, help="Return once it has started; do not delete it.")
@option("--keep", flag=True, help="Do not delete it when it has ended.")
@taking(NO_SUBREAPER)
def command(**request: Any) -> int:
    """Create CONTAINER from a bundle, start it, and wait; the exit code is its process's.

    Signals that come meanwhile are passed on to it.
    """
    return Container.run(manager=manager(), **request)
