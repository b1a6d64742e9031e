"""`migrator ps`: ps(1), of a container's processes alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from migrator.commands._common import on_container
from migrator.commands._options import choice
from migrator.commands._verb import argument, option, verb
from migrator.errors import UsageProblem
from runtime.container import Container


@verb(passes_arguments=True)
@on_container
@argument("ps_arguments", metavar="[PS-OPTION]...", many=True)
@option("-f", "--format", "form", kind=choice("table", "json"), default="table")
def command(container: Container, ps_arguments: tuple[str, ...], form: str) -> None:
    """List the processes of CONTAINER, with the columns of ps (-ef by default), or their ids."""
    import subprocess

    pids = container.processes()
    if form == "json":
        print(json.dumps(pids))
        return
    listing = subprocess.run(["ps", *(ps_arguments or ["-ef"])], stdout=subprocess.PIPE, text=True)
    if listing.returncode:
        raise UsageProblem(f"ps {' '.join(ps_arguments)} failed with status {listing.returncode}")
    for line in rows_of(listing.stdout.splitlines(), pids):
        print(line)


def rows_of(listing: list[str], pids: Collection[int]) -> Iterator[str]:
    """The header and the lines of *pids*; UsageProblem when there is no column PID."""
    columns = listing[0].split() if listing else []
    if "PID" not in columns:
        raise UsageProblem("ps printed no column PID: choose options with it, such as -o pid,args")
    column = columns.index("PID")
    yield listing[0]
    yield from (line for line in listing[1:] if int(line.split()[column]) in pids)
