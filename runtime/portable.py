"""What in a config.json keeps a container on this host: checkpoints of it are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.errors import CheckpointFailed
from runtime.seccomp.words import NOTIFY, listens, of_spec


def check(container_id: str, raw: Mapping[str, Any]) -> None:
    """Raise CheckpointFailed for what CRIU cannot dump, by the config.json as it was read."""
    if listens(of_spec(raw)):
        why = f"linux.seccomp: a filter with {NOTIFY} cannot be taken along, its agent stays here"
        raise CheckpointFailed(container_id, why)
    linux = raw.get("linux") or {}
    own = any(
        each["type"] == "network" and not each.get("path") for each in linux.get("namespaces") or ()
    )
    if own and linux.get("netDevices"):
        why = (
            "linux.netDevices: interfaces of this host cannot be taken along; "
            "in a network namespace with a path they stay there"
        )
        raise CheckpointFailed(container_id, why)
