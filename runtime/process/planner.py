"""From a checked spec to what init is told: see runtime/process/plan.py for the result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import capabilities, lsm, namespaces, rlimits, scheduling, sysctl
from runtime.cgroups.detect import current_paths
from runtime.constants import CAP_SYS_ADMIN, CLONE_NEWUSER
from runtime.errors import InvalidSpec, SetupFailed
from runtime.rootfs import devices, mount_options, mounts
from runtime.spec.model import Hook, Linux, Process, Spec
from runtime.state import State, Status

if TYPE_CHECKING:
    from runtime.process.plan import (
        CapabilityPlan,
        ExecPlan,
        HookPlan,
        InitPlan,
        ProcessPlan,
        RootfsPlan,
        SeccompPlan,
        TerminalPlan,
    )

# Whatever the caller's is, as with runc and crun: a supervisor's is often 0.
_UMASK = 0o022
# A bind has the labels of its files, and these filesystems have them from the policy.
_WITHOUT_LABEL = ("bind", "remount", "proc", "sysfs", "cgroup", "cgroup2")


def init_plan(
    spec: Spec,
    state: State,
    *,
    exec_fifo: Path,
    answer_fifo: Path | None,
    preserve_fds: int,
    parent_death_signal: int,
    no_pivot: bool,
    notify: bool,
) -> InitPlan:
    """What the init of the container of *state* is to do.

    Raises InvalidSpec or SetupFailed for what cannot be done here.
    """
    entered = namespaces.plan(spec.linux.namespaces, spec.linux.time_offsets)
    return {
        "namespaces": entered,
        "usher": entered["user"] and os.geteuid() == 0,
        "rootfs": _rootfs(spec, state, no_pivot=no_pivot),
        "hostname": spec.hostname,
        "domainname": spec.domainname,
        "sysctl": {sysctl.file_name(name): value for name, value in spec.linux.sysctl.items()},
        "create_container": _hooks(spec.hooks.create_container),
        "start_container": _hooks(spec.hooks.start_container),
        "state": state.oci(Status.CREATING),
        "exec_fifo": str(exec_fifo),
        "notify": notify,
        "answer_fifo": str(answer_fifo or ""),
        # as with runc: what others are in could take it over before its filter is there
        "traceable": os.geteuid() != 0 and not entered["join"],
        # where /dev is the host's, nothing is made in it or mounted on it
        "terminal": _terminal(spec.process, console=not devices.is_of_host(spec.mounts)),
        "process": _process(
            spec.process,
            spec.linux,
            state,
            preserve_fds=preserve_fds,
            parent_death_signal=parent_death_signal,
            user_namespace=entered["user"],
        ),
    }


def exec_plan(
    process: Process,
    linux: Linux,
    state: State,
    *,
    pidfd: int,
    namespaces: int,
    detach: bool,
    preserve_fds: int,
    parent_death_signal: int,
) -> ExecPlan:
    """What a further process in the container of *state* and *linux* is to do."""
    return {
        "pidfd": pidfd,
        "namespaces": namespaces,
        "detach": detach,
        "terminal": _terminal(process, console=False),
        "process": _process(
            process,
            linux,
            state,
            preserve_fds=preserve_fds,
            parent_death_signal=parent_death_signal,
            user_namespace=bool(namespaces & CLONE_NEWUSER),
        ),
    }


def _process(
    process: Process,
    linux: Linux,
    state: State,
    *,
    preserve_fds: int,
    parent_death_signal: int,
    user_namespace: bool,
) -> ProcessPlan:
    """What a process in a container is to be."""
    seccomp = _seccomp(linux.seccomp, state)
    return {
        "args": list(process.args),
        "env": list(process.env),
        "cwd": process.cwd,
        "uid": process.user.uid,
        "gid": process.user.gid,
        "additional_gids": list(process.user.additional_gids),
        "umask": _UMASK if process.user.umask is None else process.user.umask,
        "capabilities": _capabilities(
            process,
            to_filter=seccomp is not None and not process.no_new_privileges,
            user_namespace=user_namespace,
        ),
        "rlimits": rlimits.plan(process.rlimits),
        "no_new_privileges": process.no_new_privileges,
        "oom_score_adj": process.oom_score_adj,
        "scheduling": scheduling.plan(process, linux),
        "labels": lsm.plan(process, linux, state.bundle / "config.json", keyring=state.keyring),
        "seccomp": seccomp,
        "preserve_fds": preserve_fds,
        "parent_death_signal": int(parent_death_signal),  # marshal knows no enums
    }


def _seccomp(seccomp: Mapping[str, Any], state: State) -> SeccompPlan | None:
    if not seccomp:
        return None
    from runtime.seccomp import compiler  # noqa: PLC0415 - lazy: 3 ms, and libseccomp

    return compiler.plan(seccomp, state.bundle / "config.json")


def _terminal(process: Process, *, console: bool) -> TerminalPlan | None:
    if not process.terminal:
        return None
    return {
        "height": process.console_size.height,
        "width": process.console_size.width,
        "console": console,
    }


def _rootfs(spec: Spec, state: State, *, no_pivot: bool) -> RootfsPlan:
    try:
        paths = state.cgroup_paths or current_paths()
        table = mounts.of_spec(spec, state.bundle, paths)
    except ValueError as exc:
        raise InvalidSpec(state.bundle / "config.json", [("mounts", str(exc))]) from None
    label = spec.linux.mount_label
    for each in table.mounts:
        if label and each["fstype"] not in _WITHOUT_LABEL:
            each["options"].append(("context", label))
    nodes, links = devices.plan(spec.linux.devices, spec.mounts)
    wanted = spec.linux.rootfs_propagation
    propagation, recursive = mount_options.PROPAGATION.get(wanted, (0, False))
    return {
        "path": str(state.rootfs),
        "own_mounts": spec.linux.namespace("mount") is not None,
        "pivot": not no_pivot,
        "readonly": spec.root.readonly,
        "propagation": propagation,
        "propagation_recursive": recursive,
        "mounts": table.mounts,
        "idmaps": table.idmaps,
        "devices": nodes,
        "symlinks": links + table.symlinks,
        "masked_paths": list(dict.fromkeys(spec.linux.masked_paths)),
        "readonly_paths": list(spec.linux.readonly_paths),
        "mount_label": label,
        "cwd": spec.process.cwd,
    }


def _hooks(hooks: Iterable[Hook]) -> list[HookPlan]:
    return [(hook.path, hook.args, hook.env, hook.timeout) for hook in hooks]


def _capabilities(process: Process, *, to_filter: bool, user_namespace: bool) -> CapabilityPlan:
    """The sets; *to_filter*: with what the kernel wants of who installs a filter (seccomp(2)).

    That ends with exec, which makes the sets anew from those that can be kept (capabilities(7)).
    """
    sets = capabilities.plan(process.capabilities)
    if names := capabilities.missing(sets, capabilities.available(user_namespace=user_namespace)):
        raise SetupFailed(
            "setting capabilities",
            f"{', '.join(names)} cannot be had on this host: take it out of process.capabilities",
        )
    if to_filter:
        sets["effective"] |= 1 << CAP_SYS_ADMIN
        sets["permitted"] |= 1 << CAP_SYS_ADMIN
    return sets
