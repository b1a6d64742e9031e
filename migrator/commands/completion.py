"""`migrator completion`: how a shell completes commands, options and container ids."""

from __future__ import annotations

from migrator.commands._options import choice
from migrator.commands._verb import argument, verb

SHELLS = ("bash", "zsh", "fish")


@verb()
@argument("shell", kind=choice(*SHELLS))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: migrator completion bash > /etc/bash_completion.d/migrator
    zsh:  migrator completion zsh > "${fpath[1]}/_migrator"
    fish: migrator completion fish > ~/.config/fish/completions/migrator.fish
    """
    from click.shell_completion import get_completion_class

    from migrator.cli import COMPLETION_VARIABLE
    from migrator.commands._group import group

    completion = get_completion_class(shell)
    assert completion is not None
    print(completion(group, {}, "migrator", COMPLETION_VARIABLE).source())
