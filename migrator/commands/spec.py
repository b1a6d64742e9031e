"""`migrator spec`: a config.json to start from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from migrator.commands._common import DIRECTORY, verb
from migrator.errors import UsageProblem


@verb()
@click.option("-b", "--bundle", type=DIRECTORY, default=Path(), help="Where to write it.")
@click.option("--movable", is_flag=True, help="For a container that is to move to another host.")
@click.option("--rootless", is_flag=True, help="For the user who calls, who need not be root.")
def command(bundle: Path, movable: bool, rootless: bool) -> None:
    """Write a config.json that runs `sh` in the directory rootfs beside it."""
    from runtime.default_spec import default_spec, for_user

    path = bundle / "config.json"
    if path.exists():
        raise UsageProblem(f"{path} exists: remove it first")
    spec = default_spec(movable=movable)
    if rootless:
        for_user(spec, os.geteuid(), os.getegid())
    path.write_text(json.dumps(spec, indent="\t") + "\n")
