"""`migrator features`: the features structure of the OCI runtime-spec."""

from __future__ import annotations

import json

from migrator.commands._verb import verb
from migrator.version import VERSION
from runtime.features import features


@verb()
def command() -> None:
    """Print what this runtime can do as JSON, as features.md of the OCI runtime-spec has it.

    It says what is carried out of a config.json, not what this host has.
    """
    found = features()
    found["annotations"]["org.migrator.version"] = VERSION
    print(json.dumps(found, indent=4))
