"""`migrator resolve`: finish what a crash left of a migration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from migrator.commands._common import ID
from migrator.commands._verb import option, pass_settings, taking, verb

if TYPE_CHECKING:
    from migrator.commands._globals import Settings


@verb()
@taking(ID)
@option(
    "--force-source",
    flag=True,
    help="Resume it here without asking the destination: only if it surely does not run there.",
)
@option("as_json", "--json", flag=True, help="Print the result as JSON.")
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
        from dataclasses import asdict

        print(json.dumps(asdict(resolution)))
    else:
        print(f"{container_id}: {resolution.note}")
