"""`migrator scenario`: stories of migrations, told in a lab (scenarios/ has them)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from migrator.commands._command import Command, Group

if TYPE_CHECKING:
    from rich.table import Table


@click.group(cls=Group)
def command() -> None:
    """Run a story: a workload is moved between two hosts on this machine while it is watched."""


@command.command(cls=Command, name="list")
def list_stories() -> None:
    """Name the stories."""
    from scenarios import story

    for name in story.names():
        click.echo(f"{name:<14}{story.load(name).SUMMARY}")


@command.command(cls=Command)
@click.argument("name")
@click.option(
    "--bandwidth", default="1gbit", show_default=True, metavar="RATE", help="100mbit, ... or off."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def run(ctx: click.Context, name: str, bandwidth: str, as_json: bool) -> None:
    """Tell the story NAME, and fail when it does not end as it should."""
    from scenarios import story

    def say(line: str) -> None:
        click.echo(f"  {line}", err=True)

    result = story.run(name, bandwidth=bandwidth, say=say)
    if as_json:
        click.echo(json.dumps({**result.facts, "problems": result.problems}, indent=2))
    else:
        _print(result.facts)
    for problem in result.problems:
        click.echo(f"not as it should be: {problem}", err=True)
    ctx.exit(1 if result.problems else 0)


def _print(facts: Mapping[str, Any]) -> None:
    """The result for a person: the answers first, then where the time went."""
    from rich.console import Console  # lazy: 60 ms
    from rich.table import Table

    from migrator.waterfall import waterfall, window_of
    from scenarios.answers import answers, rounds

    summary = Table.grid(padding=(0, 2))
    for label, answer in answers(facts):
        summary.add_row(label, answer)
    migration = facts["migration"]
    console = Console(highlight=False)
    console.width = max(console.width, 100)
    for part in ("", summary, "", _before(migration), "", *rounds(migration), ""):
        console.print(part, soft_wrap=isinstance(part, str))
    console.print("while it was frozen:")
    for line in waterfall(*window_of(migration), console.width - 1, markup=True):
        console.print(line, soft_wrap=True)


def _before(migration: Mapping[str, Any]) -> Table:
    """The phases that cost the container nothing."""
    from rich.table import Table

    phases = Table("while it ran", "host", box=None, padding=(0, 2, 0, 0))
    for heading in ("starts, ms", "takes, ms"):
        phases.add_column(heading, justify="right")
    for phase in migration["phases"]:
        if not phase["frozen"]:
            times = (f"{phase['start_ms']:.1f}", f"{phase['duration_ms']:.1f}")
            phases.add_row(phase["name"], phase["host"], *times)
    return phases
