"""`migrator resolve`: finish what a crash left of a migration."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from migrator.commands._common import Settings, id_argument, pass_settings, verb


@verb()
@id_argument
@click.option(
    "--force-source",
    is_flag=True,
    help="Resume it here without asking the destination: only if it surely does not run there.",
)
@click.option("as_json", "--json", is_flag=True, help="Print the result as JSON.")
@pass_settings
def command(settings: Settings, container_id: str, force_source: bool, as_json: bool) -> None:
    """Finish a migration of CONTAINER that a crash left unfinished.

    On the source: without a commit it is resumed here; with one the destination is asked, and
    what it says ends it here or resumes it. On the destination: what was not told to run is
    removed. Safe to repeat. Exit status 6: the destination cannot be asked yet;
    nothing was changed.
    """
    from migrator.resolve import resolve

    resolution = resolve(settings.root, container_id, force_source=force_source)
    if as_json:
        click.echo(json.dumps(asdict(resolution)))
    else:
        click.echo(f"{container_id}: {resolution.note}")
