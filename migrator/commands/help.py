"""`migrator help`: the commands, or all about one of them."""

from __future__ import annotations

import click

from migrator.commands._common import verb


@verb()
@click.argument("names", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Show the commands, or the options of COMMAND, as its --help does."""
    shown = ctx.find_root()
    for name in names:
        group = shown.command
        if not isinstance(group, click.Group):
            shown.fail(f"{shown.command_path} has no commands of its own: {name}")
        _, found, _ = group.resolve_command(shown, [name])
        assert found is not None, "an unknown one is refused"
        shown = click.Context(found, info_name=name, parent=shown)
    click.echo(shown.get_help())
