"""What a container may have that no checkpoint carries: told before anything is frozen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from runtime.seccomp.words import NOTIFY, listens

if TYPE_CHECKING:
    from runtime.spec_model import Spec


def objections(spec: Spec) -> Iterator[str]:
    """Why the container of *spec* can be neither checkpointed nor migrated, and the remedies."""
    if listens(spec.linux.seccomp):
        yield (
            f"linux.seccomp: a filter with {NOTIFY} cannot be taken along, its agent stays here: "
            "make it without"
        )
    network = spec.linux.namespace("network")
    if spec.linux.net_devices and network and not network.path:
        yield (
            "linux.netDevices: interfaces of this host cannot be taken along: give it a network "
            "namespace with a path, where they stay"
        )
    if not spec.linux.namespace("mount"):
        yield "it has no mount namespace, so that it cannot be told from the host: make it with one"
    if spec.linux.namespace("user"):
        yield "it has a user namespace, which cannot be restored yet: make it without one"
    for mount in spec.mounts:
        if mount.uid_mappings or not {"idmap", "ridmap"}.isdisjoint(mount.options):
            yield f"its mount on {mount.destination} is idmapped, which CRIU does not restore"
