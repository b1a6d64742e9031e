"""One conversation with one criu process, and the files CRIU writes; knows no containers.

Names are loaded when they are first used: importing this package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from criu_rpc.client import Criu, Restored
    from criu_rpc.errors import (
        BadImages,
        BadReply,
        CriuDied,
        CriuError,
        CriuNotFound,
        CriuRequestFailed,
        CriuTooOld,
        MissingFeature,
    )
    from criu_rpc.features import Features, Version, minimum_version
    from criu_rpc.notify import Handler, Notification, Script, first_of
    from criu_rpc.options import (
        DumpOptions,
        JoinNamespace,
        ManageCgroups,
        NetworkLock,
        PageServer,
        PreDumpMode,
        RestoreOptions,
        VethPair,
    )
    from criu_rpc.process import find_criu
    from criu_rpc.stats import DumpStats, RestoreStats

__all__ = [
    "BadImages",
    "BadReply",
    "Criu",
    "CriuDied",
    "CriuError",
    "CriuNotFound",
    "CriuRequestFailed",
    "CriuTooOld",
    "DumpOptions",
    "DumpStats",
    "Features",
    "Handler",
    "JoinNamespace",
    "ManageCgroups",
    "MissingFeature",
    "NetworkLock",
    "Notification",
    "PageServer",
    "PreDumpMode",
    "RestoreOptions",
    "RestoreStats",
    "Restored",
    "Script",
    "Version",
    "VethPair",
    "find_criu",
    "first_of",
    "minimum_version",
]

_HOMES = {
    "client": ("Criu", "Restored"),
    "errors": (
        "BadImages",
        "BadReply",
        "CriuDied",
        "CriuError",
        "CriuNotFound",
        "CriuRequestFailed",
        "CriuTooOld",
        "MissingFeature",
    ),
    "features": ("Features", "Version", "minimum_version"),
    "notify": ("Handler", "Notification", "Script", "first_of"),
    "options": (
        "DumpOptions",
        "JoinNamespace",
        "ManageCgroups",
        "NetworkLock",
        "PageServer",
        "PreDumpMode",
        "RestoreOptions",
        "VethPair",
    ),
    "process": ("find_criu",),
    "stats": ("DumpStats", "RestoreStats"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
