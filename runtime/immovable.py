"""What a container may have that no checkpoint carries: told before anything is frozen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.spec_model import Spec


def objections(spec: Spec) -> Iterator[str]:
    """Why the container of *spec* can be neither checkpointed nor migrated, and the remedies."""
    if spec.process.terminal:
        yield "its terminal leads to a process outside: make it with process.terminal false"
    if spec.linux.namespace("user"):
        yield "it has a user namespace, which cannot be restored yet: make it without one"
    for mount in spec.mounts:
        if mount.uid_mappings or not {"idmap", "ridmap"}.isdisjoint(mount.options):
            yield f"its mount on {mount.destination} is idmapped, which CRIU does not restore"
