"""Remove a container, or what is left of one (OCI runtime-spec "delete").

Each step is harmless when it has been done before, so a delete that failed can be given again.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from criu_rpc.logger import Logger
from runtime import hook_points, pidfd, processes
from runtime.cgroups import CgroupManager, manager, of_state, resolve_path
from runtime.errors import CgroupError, CorruptState, NoSuchContainer, SetupFailed, StillRunning
from runtime.held import Held
from runtime.hook_points import HookName
from runtime.oserrors import failing
from runtime.reserve import release
from runtime.state import State, Status, check_id, derive_status, lock

if TYPE_CHECKING:
    pass

logger = Logger(__name__)

_KILL_WITHIN_S = 10.0


def delete(root: Path, container_id: str, *, force: bool = False) -> None:
    """Remove the container: its state, cgroups and network; its bundle stays.

    A running one is refused without *force*, and killed with it; with *force* one that does not
    exist is no error.
    """
    directory = root / check_id(container_id)
    try:
        with failing(f"deleting container {container_id}"), lock(directory):
            _delete_locked(directory, force=force)
    except NoSuchContainer:
        if not force:
            raise


def _delete_locked(directory: Path, *, force: bool) -> None:
    try:
        state = State.load(directory)
    except NoSuchContainer:  # a create was killed before it had noted anything
        with suppress(CgroupError):  # in use: then not by a container of this id
            manager(resolve_path("", directory.name)).destroy()
        release(directory)
        return
    except CorruptState:
        if not force:
            raise
        manager(resolve_path("", directory.name)).end()
        release(directory)
        return
    status = derive_status(state, directory)
    if status in (Status.RUNNING, Status.PAUSED) and not force:
        raise StillRunning(state.id, status)
    destroy(state, directory)


def destroy(state: State, directory: Path) -> None:
    """End all processes of the container and remove all that was made for it; run poststop hooks.

    The caller holds the container's lock, or is the only one to know of it.
    """
    cgroup = of_state(state)
    _kill_init(state, cgroup)
    cgroup.end()
    _remove_network(state)
    _remove_rdt_groups(state)
    _uncover(state)
    release(directory)
    _run_poststop(state)


def _kill_init(state: State, cgroup: CgroupManager) -> None:
    with pidfd.init_of(state) as init:
        if init is not None:
            further = _further(state.init_pid, cgroup)
            pidfd.send(init, signal.SIGKILL)
            if cgroup.exists() and cgroup.frozen():
                cgroup.thaw()  # cgroup v1: the signal takes effect only now
            processes.end(further)
            if not pidfd.await_end(init, _KILL_WITHIN_S):
                why = f"process {state.init_pid} does not end: it may wait for a device"
                raise SetupFailed(f"killing container {state.id}", why)
    if state.init_pid:
        Held.reap(state.init_pid)


def _further(init_pid: int, cgroup: CgroupManager) -> list[int]:
    """Those that exec has started: while one is a zombie of ours, init does not end."""
    pids = cgroup.processes() if cgroup.exists() else []
    return [*processes.strangers(init_pid, pids), *processes.zombies_beside(init_pid)]


def _remove_network(state: State) -> None:
    if state.networks:
        from runtime.network import Networks, teardown  # noqa: PLC0415 - lazy: 40 ms

        wanted = Networks.of(state)
        teardown(wanted, state.id)


def _remove_rdt_groups(state: State) -> None:
    if state.rdt_groups:
        from runtime import resctrl_group  # noqa: PLC0415 - lazy: few hosts have it

        resctrl_group.remove(state.rdt_groups)


def _uncover(state: State) -> None:
    """Take away what a create that was killed has mounted on the host."""
    if state.uncovered:
        from runtime.rootfs import host_mounts  # noqa: PLC0415 - seldom needed

        joined = (each.get("path") for each in state.namespaces if each.get("type") == "mount")
        host_mounts.uncover_in(next(joined, None), state.rootfs, state.uncovered)


def _run_poststop(state: State) -> None:
    hooks = hook_points.programs_of(state, HookName.POSTSTOP)
    hook_points.run_all(HookName.POSTSTOP, hooks, state.oci(Status.STOPPED))
