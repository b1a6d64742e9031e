"""`migrator migrate`: move a running container to another host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from migrator.commands._common import ID
from migrator.commands._options import PATH, Kind, choice, integer
from migrator.commands._verb import argument, option, pass_settings, taking, verb

if TYPE_CHECKING:
    from migrator.commands._globals import Settings


@verb()
@taking(ID)
@argument("destination", metavar="[USER@]HOST[:PORT]")
@option("bridges", "--bridge", multiple=True, metavar="OLD=NEW", help="Bridge here = bridge there.")
@option(
    "rootfs_mode",
    "--rootfs",
    kind=choice("sync", "shared"),
    default="sync",
    show_default=True,
    help="Move the root file system, or find it there on shared storage.",
)
@option(
    "--bundle",
    kind=PATH,
    help="Bundle at the destination.  [default: the same path]",
)
@option(
    "--agent",
    default="migrator",
    show_default=True,
    metavar="COMMAND",
    help="What migrator is called there.",
)
@option(
    "ssh_config",
    "-F",
    "--ssh-config",
    kind=PATH,
    help="In place of ~/.ssh/config and /etc/ssh/ssh_config.",
)
@option("-i", "--identity", kind=PATH, help="Private key to log in with.")
@option(
    "--mode",
    kind=choice("auto", "hybrid", "pre-copy", "post-copy", "cold"),
    default="auto",
    show_default=True,
    help="How the memory moves: see docs/migration.md.",
)
@option(
    "--downtime",
    default="300ms",
    show_default=True,
    metavar="TIME",
    help="What the copy rounds aim at.",
)
@option(
    "--max-rounds",
    kind=integer(at_least=1),
    default=30,
    show_default=True,
    help="Copy rounds at most.",
)
@option(
    "--max-time",
    default="10min",
    show_default=True,
    metavar="TIME",
    help="Time for copy rounds at most.",
)
@option("--converge", flag=True, help="Slow the container down where it outruns the link.")
@option(
    "compression",
    "--compress",
    kind=choice("auto", "none", "lz4", "zstd"),
    default="auto",
    show_default=True,
    help="Compression of memory pages.",
)
@option("--bandwidth", metavar="RATE", help="Bytes a second at most: 100M, 64MiB; or bits: 1gbit.")
@option(
    "--keep-pages", flag=True, help="When it fails, keep what has arrived for the next attempt."
)
@option(
    "--give-up-after",
    metavar="TIME",
    help="Post-copy: end the container when its pages stay away that long.  [default: never]",
)
@option("--ext-unix-sk", flag=True, help="Allow unix sockets connected to outside.")
@option(
    "--console-socket",
    kind=PATH,
    metavar="SOCKET",
    help="Send its terminal to who listens at this socket there.",
)
@option(
    "commit_wait_s",
    "--commit-wait",
    kind=Kind(float),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to ask again when the answer to the commit is lost.",
)
@option("--plot", flag=True, help="Show the frozen time, each part of it by name.")
@option("as_json", "--json", flag=True, help="Print the report as JSON.")
@pass_settings
def command(
    settings: Settings,
    container_id: str,
    destination: str,
    bridges: tuple[str, ...],
    downtime: str,
    max_time: str,
    bandwidth: str | None,
    give_up_after: str | None,
    plot: bool,
    as_json: bool,
    agent: str,
    ssh_config: Path | None,
    identity: Path | None,
    **options: object,
) -> None:
    """Move a running CONTAINER to another host, over SSH, and end it here.

    It keeps its memory, its files, its addresses and its connections. Up to the moment when
    the destination holds a complete copy of it, any failure leaves it running here; never do two
    copies run.

    \b
    Exit status:
      0  it runs at the destination          4  the destination cannot be reached
      1  the request is wrong                5  it failed on the way; it runs on here
      3  preflight found reasons against it  6  the outcome is unknown: migrator resolve
      8  post-copy: it ended there for want of its pages, and is frozen here

    \b
    Example:
      migrator migrate redis1 root@beta --bridge br0=br7
    """
    # paramiko would import it for "Match exec" (ssh_config(5)), which ssh does here: 90 of 450 ms
    sys.modules.setdefault("invoke", None)  # type: ignore[arg-type]
    from migrator.bandwidth import parse as parse_rate
    from migrator.migrate import migrate
    from migrator.plan import Destination, Plan, parse_bridges, parse_duration_ms
    from migrator.render import migration_progress, print_report

    plan = Plan(
        container=container_id,
        root=settings.root,
        criu=settings.criu,
        systemd_cgroup=settings.systemd_cgroup,
        destination=Destination.parse(
            destination, agent=agent, ssh_config=ssh_config, identity=identity
        ),
        bridges=parse_bridges(bridges),
        downtime_ms=parse_duration_ms(downtime, unit="ms"),
        max_time_s=parse_duration_ms(max_time) / 1000,
        bandwidth=parse_rate(bandwidth) if bandwidth else None,
        give_up_after_s=parse_duration_ms(give_up_after) / 1000 if give_up_after else None,
        **options,  # type: ignore[arg-type]
    )
    with migration_progress(plan) as observer:
        report = migrate(plan, observer)
    print_report(report, as_json=as_json, plot=plot)
