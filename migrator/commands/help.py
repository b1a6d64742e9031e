"""`migrator help`: the commands, or all about one of them."""

from __future__ import annotations

from migrator.commands._verb import argument, verb


@verb()
@argument("names", metavar="[COMMAND]...", many=True)
def command(names: tuple[str, ...]) -> None:
    """Show the commands, or the options of COMMAND, as its --help does."""
    import click

    from migrator.commands._group import group

    shown = click.Context(group, info_name="migrator", **group.context_settings)
    for name in names:
        if not isinstance(shown.command, click.Group):
            shown.fail(f"{shown.command_path} has no commands of its own: {name}")
        _, found, _ = shown.command.resolve_command(shown, [name])
        assert found is not None, "an unknown one is refused"
        shown = click.Context(found, info_name=name, parent=shown)
    print(shown.get_help())
