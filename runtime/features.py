"""What this runtime can do, whatever the host: the features structure of the OCI runtime-spec.

Nothing is listed here by hand that another module knows: names come from the tables that the
runtime itself reads, and whether something is carried out is asked of the reader of config.json.
OCI runtime-spec features.md and features-linux.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime import scheduling
from runtime.capabilities import NAMES
from runtime.cgroups.unit_properties import ANNOTATION_PREFIX
from runtime.checkpoint.criu_config import CONFIG_ANNOTATION
from runtime.errors import InvalidSpec, UnsupportedField
from runtime.hook_points import HookName
from runtime.rootfs import mount_options
from runtime.seccomp import words
from runtime.spec import reading
from runtime.spec.default import OCI_VERSION, default_spec
from runtime.spec.fields import NAMESPACE_TYPE

_OLDEST_VERSION = "1.0.0"

# Something of each kind that asks for it.
_SECCOMP = {"defaultAction": "SCMP_ACT_ALLOW"}
_ID_MAPPINGS = [{"containerID": 0, "hostID": 0, "size": 1}]
_IDMAPPED = {"destination": "/m", "source": "/", "options": ["bind"], "uidMappings": _ID_MAPPINGS}


def features() -> dict[str, Any]:
    """The features structure; what it leaves out counts as unknown."""
    return {
        "ociVersionMin": _OLDEST_VERSION,
        "ociVersionMax": OCI_VERSION,
        "hooks": list(map(str, HookName)),
        "mountOptions": sorted(mount_options.KNOWN_OPTIONS),
        "linux": _linux(),
        "annotations": {"org.opencontainers.runc.checkpoint.enabled": "true"},
        "potentiallyUnsafeConfigAnnotations": [CONFIG_ANNOTATION, ANNOTATION_PREFIX],
    }


def _linux() -> dict[str, Any]:
    return {
        "namespaces": [kind for kind in sorted(NAMESPACE_TYPE.choices) if _namespace(kind)],
        "capabilities": list(NAMES),
        "cgroup": {
            "v1": True,
            "v2": True,
            "systemd": True,
            "systemdUser": True,
            "rdma": _carried_out(linux={"resources": {"rdma": {"mlx5_0": {"hcaHandles": 1}}}}),
        },
        "seccomp": {
            **_enabled(linux={"seccomp": _SECCOMP}),
            "actions": sorted(words.ACTIONS),
            "operators": sorted(words.OPERATORS),
            "archs": sorted(words.ARCHITECTURES),
            "knownFlags": sorted(words.FLAGS),
            "supportedFlags": sorted(words.FLAGS),
        },
        "apparmor": _enabled(process={"apparmorProfile": "profile"}),
        "selinux": _enabled(process={"selinuxLabel": "label"}),
        "memoryPolicy": {
            "modes": sorted(scheduling.MEMORY_MODES),
            "flags": sorted(scheduling.MEMORY_FLAGS),
        },
        "intelRdt": {
            **_enabled(linux={"intelRdt": {"closID": "group"}}),
            "schemata": _carried_out(linux={"intelRdt": {"schemata": ["L3:0=f"]}}),
            "monitoring": _carried_out(linux={"intelRdt": {"enableMonitoring": True}}),
        },
        "netDevices": _enabled(linux={"netDevices": {"eth0": {}}}),
        "mountExtensions": {"idmap": _enabled(mounts=[_IDMAPPED])},
    }


def _namespace(kind: str) -> bool:
    wanted = {"mount": {"type": "mount"}, kind: {"type": kind}}
    return _carried_out(linux={"namespaces": list(wanted.values())}, hostname=None)


def _enabled(**sections: Any) -> dict[str, bool]:
    return {"enabled": _carried_out(**sections)}


def _carried_out(**sections: Any) -> bool:
    """Whether a config.json that asks for *sections* is read without a refusal."""
    config = default_spec()
    for name, value in sections.items():
        config[name] = {**config.get(name, {}), **value} if isinstance(value, dict) else value
    try:
        reading.parse(config, Path(reading.CONFIG_FILE))
    except UnsupportedField:
        return False
    except InvalidSpec:
        return True  # known, and in need of more than was asked for here
    return True
