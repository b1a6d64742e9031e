"""`migrator` as click has it: help, completion, and what is unusual or wrong in a command line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from migrator.commands import COMMANDS, load
from migrator.commands._command import Group, of_parameters, of_verb
from migrator.commands._globals import OPTIONS, apply
from migrator.commands._verb import Verb

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_TITLE = "runc - Open Container Initiative runtime"
#: whose command line ours is
_RUNC_VERSION = "1.4.0"


class Commands(Group):
    """A group that knows its commands by a table, and imports the one that is run."""

    def title(self, ctx: click.Context) -> str:
        """What it is, in words that those know who look for runc's."""
        return f"{ctx.command_path}, a drop-in for {_TITLE} with live migration"

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module: most have declared it, those with subcommands by click."""
        if cmd_name not in COMMANDS:
            return None
        command = load(cmd_name)
        return of_verb(cmd_name, command) if isinstance(command, Verb) else command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant; an unknown one is refused with those that are like it."""
        name = args[0]
        if name not in COMMANDS:
            ctx.fail(f"no such command: No help topic for '{name}'{_suggestion(name)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, from the table alone."""
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [(name, e.help) for name, e in COMMANDS.items() if e.section == section]
                )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names from the table alone, else options."""
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        items = [CompletionItem(name, help=COMMANDS[name].help) for name in names]
        return items + click.Command.shell_complete(self, ctx, incomplete)


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    alike = get_close_matches(name, COMMANDS)
    return f": did you mean {' or '.join(alike)}?" if alike else ""


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        for line in _version_lines(ctx.params.get("criu")):
            click.echo(line)
        ctx.exit()


def _version_lines(criu: str | None) -> Iterator[str]:
    from criu_rpc import CriuError, find_criu
    from migrator.version import VERSION, commit
    from runtime.spec.default import OCI_VERSION

    yield f"migrator version {VERSION}, a drop-in for runc version {_RUNC_VERSION}"
    yield f"commit: {commit()}"
    yield f"spec: {OCI_VERSION}"
    try:
        yield f"criu: {find_criu(criu)}"
    except CriuError:
        yield "criu: none found"


def _configure(**values: Any) -> None:
    click.get_current_context().obj = apply(**values)


group = Commands(
    "migrator",
    params=[
        *of_parameters(OPTIONS),
        click.Option(
            ["-v", "--version"],
            is_flag=True,
            expose_value=False,
            callback=_print_version,
            help="Show the versions of migrator and of the OCI specification, and the criu in use.",
        ),
    ],
    callback=_configure,
    help=inspect.cleandoc(
        """
        Run containers, and move them to another host while they run.

        Containers are made from OCI bundles by commands with runc's names and options; then
        `migrator migrate CONTAINER user@host` moves one over SSH.
        """
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def invoke(words: list[str]) -> int:
    """Carry out a command line, or say what is wrong with it; the exit code."""
    try:
        with group.make_context("migrator", words) as ctx:
            return group.invoke(ctx) or 0
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.Abort as exc:
        raise KeyboardInterrupt from exc
