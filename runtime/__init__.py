"""One container on one host: a full OCI runtime core as a Python package.

Names are loaded when first used: a container's init imports a few modules of this package, and
whatever else this file imported would be part of the time that a container takes to start.
"""

# What the interpreter of a container's init cannot afford is not imported here: typing, importlib.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.checkpoint.options import CheckpointOptions
    from runtime.checkpoint.restore_options import RestoreOptions
    from runtime.container import Container
    from runtime.container_process import ContainerProcess
    from runtime.create import Creation
    from runtime.errors import (
        BundleError,
        CgroupError,
        CheckpointFailed,
        ContainerBusy,
        ContainerError,
        ContainerExists,
        CorruptState,
        ExecFailed,
        HookFailed,
        InvalidId,
        InvalidNetwork,
        InvalidSpec,
        NetworkError,
        NoSuchContainer,
        NoSuchProcess,
        NotPaused,
        NotRunning,
        Paused,
        ProcessExists,
        RestoreFailed,
        SetupFailed,
        StillRunning,
        UnsupportedField,
        WrongStatus,
    )
    from runtime.execute import Execution
    from runtime.hook_points import HookName
    from runtime.namespaces import (
        clone_flags,
        is_namespace_supported,
        namespace_types,
        ns_name,
        path_of,
    )
    from runtime.network.models import Network, Networks, Route
    from runtime.notifications import Notifications, PressureLevel
    from runtime.process.pipes import IO
    from runtime.process.stdio import Stdio
    from runtime.process.terminal import Terminal
    from runtime.spec.model import CommandHook, Linux, Process, Spec
    from runtime.state import State, Status
    from runtime.stats import Stats
    from runtime.supervisor import INIT, Change, Event, Summary, Supervisor

_MODULES = {
    "IO": "process.pipes",
    "HookName": "hook_points",
    "CommandHook": "spec.model",
    "is_namespace_supported": "namespaces",
    "ns_name": "namespaces",
    "namespace_types": "namespaces",
    "path_of": "namespaces",
    "clone_flags": "namespaces",
    "Container": "container",
    "ContainerProcess": "container_process",
    "CheckpointOptions": "checkpoint.options",
    "RestoreOptions": "checkpoint.restore_options",
    "Stdio": "process.stdio",
    "Terminal": "process.terminal",
    "State": "state",
    "Status": "state",
    "Stats": "stats",
    "Supervisor": "supervisor",
    "Event": "supervisor",
    "Change": "supervisor",
    "INIT": "supervisor",
    "Creation": "create",
    "Execution": "execute",
    "Linux": "spec.model",
    "Summary": "supervisor",
    "Notifications": "notifications",
    "PressureLevel": "notifications",
    "Spec": "spec.model",
    "Process": "spec.model",
    "Networks": "network.models",
    "Network": "network.models",
    "Route": "network.models",
    "ContainerError": "errors",
    "BundleError": "errors",
    "CgroupError": "errors",
    "CheckpointFailed": "errors",
    "ContainerBusy": "errors",
    "ContainerExists": "errors",
    "CorruptState": "errors",
    "ExecFailed": "errors",
    "HookFailed": "errors",
    "InvalidId": "errors",
    "InvalidNetwork": "errors",
    "InvalidSpec": "errors",
    "NetworkError": "errors",
    "NoSuchContainer": "errors",
    "NoSuchProcess": "errors",
    "ProcessExists": "errors",
    "NotPaused": "errors",
    "NotRunning": "errors",
    "Paused": "errors",
    "RestoreFailed": "errors",
    "SetupFailed": "errors",
    "StillRunning": "errors",
    "UnsupportedField": "errors",
    "WrongStatus": "errors",
}

__all__ = [
    "INIT",
    "IO",
    "BundleError",
    "CgroupError",
    "Change",
    "CheckpointFailed",
    "CheckpointOptions",
    "CommandHook",
    "Container",
    "ContainerBusy",
    "ContainerError",
    "ContainerExists",
    "ContainerProcess",
    "CorruptState",
    "Creation",
    "Event",
    "ExecFailed",
    "Execution",
    "HookFailed",
    "HookName",
    "InvalidId",
    "InvalidNetwork",
    "InvalidSpec",
    "Linux",
    "Network",
    "NetworkError",
    "Networks",
    "NoSuchContainer",
    "NoSuchProcess",
    "NotPaused",
    "NotRunning",
    "Notifications",
    "Paused",
    "PressureLevel",
    "Process",
    "ProcessExists",
    "RestoreFailed",
    "RestoreOptions",
    "Route",
    "SetupFailed",
    "Spec",
    "State",
    "Stats",
    "Status",
    "Stdio",
    "StillRunning",
    "Summary",
    "Supervisor",
    "Terminal",
    "UnsupportedField",
    "WrongStatus",
    "clone_flags",
    "is_namespace_supported",
    "namespace_types",
    "ns_name",
    "path_of",
]


def __getattr__(name: str) -> "Any":
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - lazy: not for a container's init

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
