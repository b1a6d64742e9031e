"""`migrator lab`: hosts and a client on one machine, to try migrations on (docs/lab.md)."""

from __future__ import annotations

import json
import os

import click

from migrator.commands._command import Command, Group

name_option = click.option(
    "--name", default="default", show_default=True, metavar="LAB", help="Which lab."
)


@click.group(cls=Group)
def command() -> None:
    """Hosts and a client on this machine, to try migrations on.

    \b
    Example:
      migrator lab up
      migrator lab exec alpha -- migrator run ...
      migrator lab exec alpha -- migrator migrate -F CONFIG c1 root@beta --bridge br0=br7
      migrator lab down
    """


@command.command(cls=Command)
@name_option
@click.option("--hosts", default=2, show_default=True, help="How many, the client aside.")
@click.option(
    "--bandwidth",
    default="1gbit",
    show_default=True,
    metavar="RATE",
    help="Of each host, both ways: 100mbit, 1gbit, ... or off.",
)
def up(name: str, hosts: int, bandwidth: str) -> None:
    """Bring a lab up; one that is up already is left as it is."""
    from migrator.lab import lab

    known = name in lab.names()
    found = lab.load(name) if known else lab.up(name, host_count=hosts, bandwidth=bandwidth)
    state = "is up already" if known else "is up"
    click.echo(f"lab {name} {state}: {', '.join(host.name for host in found.hosts)} and client")
    click.echo(f"ssh config: {found.ssh_config}")


@command.command(cls=Command)
@name_option
def down(name: str) -> None:
    """Remove a lab, with all that runs in it."""
    from migrator.lab import lab

    lab.down(name)


@command.command("exec", cls=Command, context_settings={"allow_interspersed_args": False})
@name_option
@click.argument("host")
@click.argument("arguments", metavar="COMMAND...", nargs=-1, required=True)
def execute(name: str, host: str, arguments: tuple[str, ...]) -> None:
    """Run COMMAND on HOST (alpha, beta, ... or client)."""
    from migrator.lab import lab

    given = arguments[1:] if arguments[0] == "--" else arguments
    argv = lab.load(name).host(host).command(*given)
    os.execv(argv[0], argv)


@command.command(cls=Command)
@name_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(name: str, as_json: bool) -> None:
    """Show what is up."""
    from migrator.lab import lab

    found = lab.load(name).status()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for key in ("name", "bandwidth", "ssh_config"):
        click.echo(f"{key:<12}{found[key]}")
    for host in found["hosts"]:
        click.echo("{name:<12}{address:<14}{interface:<8}init {init_pid}".format(**host))


@command.command(cls=Command)
@name_option
@click.argument("rate")
def shape(name: str, rate: str) -> None:
    """Give every host RATE (100mbit, 1gbit, ... or off) from now on."""
    from migrator.lab import lab

    lab.load(name).shape(rate)
