"""The state of a container as `state` and `list` print it."""

from __future__ import annotations

import pwd
from typing import Any

from runtime.container import Container


def described(container: Container) -> dict[str, Any]:
    """The OCI state and what runc adds to it, in runc's order; no annotations when it has none."""
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
    uid = container.dir.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
