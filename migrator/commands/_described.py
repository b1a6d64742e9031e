"""The state of a container as `state` and `list` print it."""

from __future__ import annotations

import pwd
from typing import Any

from runtime.container import Container
from runtime.errors import NoSuchContainer


def described(container: Container) -> dict[str, Any]:
    """The OCI state and what runc adds to it, in runc's order; no annotations when it has none.

    Raises NoSuchContainer when it was removed meanwhile.
    """
    oci = container.oci_state()
    annotations = oci["annotations"]
    return {
        "ociVersion": oci["ociVersion"],
        "id": oci["id"],
        "pid": oci["pid"],
        "status": oci["status"],
        "bundle": oci["bundle"],
        "rootfs": str(container.state.rootfs),
        "created": container.state.created,
        **({"annotations": annotations} if annotations else {}),
        "owner": _owner(container),
    }


def _owner(container: Container) -> str:
    try:
        uid = container.dir.stat().st_uid
    except FileNotFoundError:
        raise NoSuchContainer(container.id, container.dir.parent) from None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
