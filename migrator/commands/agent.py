"""`migrator agent`: the destination's side of a migration, started by the source over SSH."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrator.commands._verb import pass_settings, verb

if TYPE_CHECKING:
    from migrator.commands._globals import Settings


@verb()
@pass_settings
def command(settings: Settings) -> None:
    """Serve one migration on standard input and output.

    `migrator migrate` starts this over SSH on the destination; it is of no use by hand.
    """
    from migrator.agent import serve_stdio

    raise SystemExit(serve_stdio(settings.root, criu=settings.criu))
