"""`migrator list`: the containers below the state root."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress

from migrator.commands._described import described
from migrator.commands._globals import DEFAULT_ROOT, Settings
from migrator.commands._options import choice
from migrator.commands._verb import option, pass_settings, verb
from migrator.errors import UsageProblem
from runtime.container import Container
from runtime.errors import NoSuchContainer

COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")


@verb()
@option("-f", "--format", "form", kind=choice("table", "json"), default="table")
@option("-q", "--quiet", flag=True, help="Print the ids only.")
@pass_settings
def command(settings: Settings, form: str, quiet: bool) -> None:
    """List the containers of this host."""
    if settings.root != DEFAULT_ROOT and not settings.root.is_dir():
        raise UsageProblem(f"the state root {settings.root} does not exist: see --root")
    states = []
    for container in Container.list_all(settings.root):
        with suppress(NoSuchContainer):  # removed meanwhile
            states.append(described(container))
    if quiet:
        lines: Iterator[str] = (state["id"] for state in states)
    elif form == "json":
        lines = iter([json.dumps(states, separators=(",", ":"))])
    else:
        rows = [[str(state[column]) for column in COLUMNS] for state in states]
        lines = aligned([[column.upper() for column in COLUMNS], *rows])
    for line in lines:
        print(line)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns at least 12 wide and three blanks apart, the last one as it is: runc's table."""
    widths = [max(12, *(len(cell) + 3 for cell in column)) for column in zip(*rows, strict=True)]
    for *cells, last in rows:
        yield "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)) + last
