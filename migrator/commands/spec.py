"""`migrator spec`: a config.json to start from."""

from __future__ import annotations

import json
import os
from pathlib import Path

from migrator.commands._options import DIRECTORY
from migrator.commands._verb import option, verb
from migrator.errors import UsageProblem


@verb()
@option("-b", "--bundle", kind=DIRECTORY, default=Path(), help="Where to write it.")
@option("--movable", flag=True, help="For a container that is to move to another host.")
@option("--rootless", flag=True, help="For the user who calls, who need not be root.")
def command(bundle: Path, movable: bool, rootless: bool) -> None:
    """Write a config.json that runs `sh` in the directory rootfs beside it."""
    from runtime.spec.default import default_spec, for_user

    path = bundle / "config.json"
    if path.exists():
        raise UsageProblem(f"{path} exists: remove it first")
    spec = default_spec(movable=movable)
    if rootless:
        for_user(spec, os.geteuid(), os.getegid())
    path.write_text(json.dumps(spec, indent="\t") + "\n")
