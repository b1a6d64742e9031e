"""Run a further process in a running container (runc exec)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime import namespaces, pidfd
from runtime.cgroups import manager
from runtime.errors import NotRunning, Paused
from runtime.oserrors import failing
from runtime.process import pidfile, planner
from runtime.process.channel import READY
from runtime.process.parent import JOIN, Launched
from runtime.process.stdio import Stdio
from runtime.spec_model import Process
from runtime.state import State, Status, derive_status


def launch(
    state: State,
    directory: Path,
    process: Process,
    *,
    stdio: Stdio,
    before_it_runs: Callable[[], object],
    pid_file: Path | None = None,
    keep: tuple[int, ...] = (),
    detach: bool = False,
    ignore_paused: bool = False,
) -> int:
    """Start *process* in all namespaces and cgroups of the container; return its pid.

    It is our child, or with *detach* somebody else's to wait for: a zombie of ours would keep the
    container's init from ending (pid_namespaces(7)). The caller holds the container's lock. In a
    paused container it starts when that is resumed.
    """
    status = derive_status(state, directory)
    if status is Status.PAUSED and not ignore_paused:
        raise Paused(state.id)
    with failing(f"running a process in container {state.id}"), pidfd.init_of(state) as init:
        if init is None:
            raise NotRunning(state.id, status)
        with Launched.spawn(JOIN, stdio, keep=(*keep, init)) as launched:
            manager("", paths=state.cgroup_paths).join(launched.launcher_pid)
            plan = planner.exec_plan(
                process,
                pidfd=init,
                namespaces=namespaces.different(state.init_pid),
                detach=detach,
                preserve_fds=len(keep),
            )
            pid = launched.tell(plan)
            before_it_runs()
            launched.go()
            launched.receive(READY)
            launched.await_exec()
            if pid_file:
                pidfile.write(pid_file, pid)
            return pid
