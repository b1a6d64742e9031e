"""Run a further process in a running container (runc exec)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criu_rpc.logger import Logger
from runtime import affinity, namespaces, pidfd
from runtime.cgroups import of_state, sub
from runtime.cgroups.sub import SubCgroups
from runtime.errors import NotRunning, Paused
from runtime.held import Held
from runtime.process import pidfile, planner
from runtime.process.channel import READY
from runtime.process.parent import FIRST_EXTRA, JOIN, Launched
from runtime.process.stdio import Stdio
from runtime.process.terminal import Terminal, taker
from runtime.seccomp.words import listens
from runtime.spec.model import Linux, Process
from runtime.state import State, Status, derive_status

if TYPE_CHECKING:
    from runtime.seccomp.agent import Agent

logger = Logger(__name__)

_OF_EVERYBODY = ("seccomp", "personality", "memoryPolicy")


def launch(
    state: State,
    directory: Path,
    process: Process,
    *,
    stdio: Stdio,
    terminal: Terminal | None,
    before_it_runs: Callable[[], object],
    sub_cgroups: SubCgroups,
    pid_file: Path | None = None,
    extra_fds: Sequence[int] = (),
    parent_death_signal: int = 0,
    detach: bool = False,
    ignore_paused: bool = False,
    pidfd_socket: Path | None = None,
) -> Held:
    """Start *process* in all namespaces and cgroups of the container.

    It is our child, or with *detach* somebody else's to wait for: a zombie of ours would keep the
    container's init from ending (pid_namespaces(7)). The caller holds the container's lock. In a
    paused container it starts when that is resumed. Where it names no AppArmor profile or SELinux
    label, it has the container's.
    """
    takes = taker(process, terminal)
    status = derive_status(state, directory)
    if status is Status.PAUSED and not ignore_paused:
        raise Paused(state.id, "cannot exec in a paused container")
    with ExitStack() as stack:
        init = stack.enter_context(pidfd.init_of(state))
        if init is None:
            raise NotRunning(state.id, status)
        listener = stack.enter_context(pidfd.listening(pidfd_socket))
        linux = _linux_of(state)
        agent = _agent(state, linux.seccomp, status, stack)
        launched = stack.enter_context(Launched.spawn(JOIN, stdio, fds=(*extra_fds, init)))
        affinity.set_initial(launched.launcher_pid, process.exec_cpu_affinity)
        sub.join(of_state(state), launched.launcher_pid, sub_cgroups, state.init_pid)
        _join_rdt_groups(state, launched.launcher_pid)
        affinity.set_final(launched.launcher_pid, process.exec_cpu_affinity)
        plan = planner.exec_plan(
            _labelled(process, state),
            linux,
            state,
            pidfd=FIRST_EXTRA + len(extra_fds),
            namespaces=namespaces.different(state.init_pid),
            detach=detach,
            preserve_fds=len(extra_fds),
            parent_death_signal=parent_death_signal,
        )
        pid = launched.tell(plan)
        held = Held(pid, os.dup(launched.pidfd))  # while nothing of it runs yet
        launched.hand_over(listener)
        before_it_runs()
        launched.go()
        if takes is not None:
            takes.take(launched)
        launched.receive(READY)
        logger.debug("setns_init: about to exec in process %d", pid)
        launched.await_exec(agent)
        if pid_file:
            pidfile.write(pid_file, pid)
        return held


def _join_rdt_groups(state: State, pid: int) -> None:
    """What *pid* forks has the container's share of cache and memory bandwidth too."""
    if state.rdt_joined:
        from runtime import resctrl, resctrl_group  # noqa: PLC0415 - lazy: few hosts have it

        resctrl_group.join(state.rdt_joined, pid, at=resctrl.root())


def _labelled(process: Process, state: State) -> Process:
    """*process*, confined as the container is unless it says otherwise; the kernel has no default.

    Without a label it would go on as the runtime is, which nothing confines.
    """
    own = state.spec.get("process") or {}
    return process._replace(
        apparmor_profile=process.apparmor_profile or own.get("apparmorProfile") or "",
        selinux_label=process.selinux_label or own.get("selinuxLabel") or "",
    )


def _linux_of(state: State) -> Linux:
    """What of the container is everybody's in it, whatever process.json says."""
    if not any((state.spec.get("linux") or {}).get(name) for name in _OF_EVERYBODY):
        return Linux()
    from runtime.spec.reading import parse  # noqa: PLC0415 - lazy: 10 ms

    return parse(state.spec, state.bundle / "config.json").linux


def _agent(
    state: State, seccomp: Mapping[str, Any], status: Status, stack: ExitStack
) -> Agent | None:
    if not listens(seccomp):
        return None
    from runtime.seccomp.agent import connected  # noqa: PLC0415 - lazy: 10 ms

    return stack.enter_context(connected(state, seccomp, status))
