"""`migrator completion`: how a shell completes commands, options and container ids."""

from __future__ import annotations

import click

from migrator.commands._common import verb

SHELLS = ("bash", "zsh", "fish")


@verb()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: migrator completion bash > /etc/bash_completion.d/migrator
    zsh:  migrator completion zsh > "${fpath[1]}/_migrator"
    fish: migrator completion fish > ~/.config/fish/completions/migrator.fish
    """
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    assert completion is not None
    root = ctx.find_root()
    click.echo(completion(root.command, {}, "migrator", "_MIGRATOR_COMPLETE").source())
