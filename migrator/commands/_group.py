"""`migrator` itself: its global options, and the choice of the command (see migrator.commands)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrator import log
from migrator.commands import COMMANDS
from migrator.commands._command import Group
from migrator.commands._common import DEFAULT_ROOT, FILE, Settings

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_TITLE = "runc - Open Container Initiative runtime"
#: whose command line ours is
_RUNC_VERSION = "1.4.0"
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Commands(Group):
    """A group that knows its commands by a table, and imports the one that is run."""

    def title(self, ctx: click.Context) -> str:
        """What it is, in words that those know who look for runc's."""
        return f"{ctx.command_path}, a drop-in for {_TITLE} with live migration"

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"migrator.commands.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

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
    from runtime.default_spec import OCI_VERSION

    yield f"migrator version {VERSION}, a drop-in for runc version {_RUNC_VERSION}"
    yield f"commit: {commit()}"
    yield f"spec: {OCI_VERSION}"
    try:
        yield f"criu: {find_criu(criu)}"
    except CriuError:
        yield "criu: none found"


@click.command(cls=Commands, context_settings=_CONTEXT)
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    default=DEFAULT_ROOT,
    show_default=True,
    metavar="DIR",
    help="Where containers keep their state.",
)
@click.option("--log", "log_path", type=FILE, metavar="FILE", help="Append messages to FILE.")
@click.option(
    "--log-format",
    type=click.Choice(list(log.FORMATS)),
    default="text",
    show_default=True,
    help="Of the log file; without one, of standard error.",
)
@click.option("--debug", is_flag=True, help="Log every step, and where an error comes from.")
@click.option(
    "--systemd-cgroup/--no-systemd-cgroup",
    default=None,
    help="Have systemd make cgroups; linux.cgroupsPath is slice:prefix:name.",
)
@click.option(
    "--rootless",
    type=click.Choice(["true", "false", "auto"]),
    default="auto",
    show_default=True,
    help="Whether containers may do without cgroups that are refused.",
)
@click.option("--criu", metavar="FILE", is_eager=True, help="The criu to use (or $MIGRATOR_CRIU).")
@click.option(
    "-v",
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the versions of migrator and of the OCI specification, and which criu is used.",
)
@click.pass_context
def group(
    ctx: click.Context,
    root: Path,
    log_path: Path | None,
    log_format: str,
    debug: bool,
    rootless: str,
    criu: str | None,
    systemd_cgroup: bool | None,
) -> None:
    """Run containers, and move them to another host while they run.

    Containers are made from OCI bundles by commands with runc's names and options; then
    `migrator migrate CONTAINER user@host` moves one over SSH.
    """
    log.configure(path=log_path, form=log_format, debug=debug)
    ctx.obj = Settings(
        root=root,
        criu=criu,
        debug=debug,
        rootless=None if rootless == "auto" else rootless == "true",
        systemd_cgroup=systemd_cgroup,
    )
