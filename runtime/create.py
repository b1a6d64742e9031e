"""Make a container up to the point where its process waits for start (OCI runtime-spec "create").

Every step has its undo beside it: a create that fails leaves no process, cgroup, directory, mount
or interface behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from runtime import pidfd
from runtime.errors import HookFailed
from runtime.oserrors import failing
from runtime.process.parent import INIT, Launched
from runtime.process.stdio import Stdio
from runtime.reserve import preserved, reserve
from runtime.state import State, check_id
from runtime.undo import Undo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.hook_points import InProcessHooks
    from runtime.network import Networks
    from runtime.process.terminal import Terminal


class Creation(TypedDict, total=False):
    """What can be said of a container beside its bundle."""

    #: interfaces to be made in its network namespace
    networks: Networks | None
    #: /dev/null by default
    stdio: Stdio | None
    #: has the other end of its terminal; must be given if the spec asks for one
    terminal: Terminal | None
    pid_file: Path | None
    #: a unix socket, who listens there gets its init as a pidfd
    pidfd_socket: Path | None
    #: how many descriptors after the standard three the process gets
    preserve_fds: int
    #: descriptors of ours that it gets after those, whatever their numbers here
    extra_fds: Sequence[int]
    #: what it gets when the thread that has made it ends (prctl(2) PR_SET_PDEATHSIG); 0: nothing
    parent_death_signal: int
    #: how many it gets before all of them, as sockets to serve: sd_listen_fds(3)
    listen_fds: int
    #: it has a socket to say that it is ready, which `start` listens to: sd_notify(3)
    notify: bool
    #: its rootfs is moved over the root: for hosts whose root cannot be pivoted (initramfs)
    no_pivot: bool
    #: whether the host may refuse it cgroups; None: unless who makes it is the host's root
    rootless: bool | None
    #: its processes get a session keyring of their own, not that of ours
    new_keyring: bool
    #: systemd makes its cgroup: a unit, which linux.cgroupsPath names
    systemd_cgroup: bool
    #: functions of this process, called after the programs of config.json
    hooks: InProcessHooks


def repeatable(how: Creation) -> Creation:
    """*how* without descriptors of ours: one create uses them up."""
    stdio, terminal = how.get("stdio") or Stdio(), how.get("terminal")
    return {
        **how,
        "stdio": stdio.without_descriptors(),
        "terminal": terminal if terminal and terminal.console_socket else None,
        "preserve_fds": 0,
        "extra_fds": (),
        "listen_fds": 0,
    }


def create(
    root: Path,
    container_id: str,
    bundle: Path,
    *,
    networks: Networks | None = None,
    stdio: Stdio | None = None,
    terminal: Terminal | None = None,
    pid_file: Path | None = None,
    pidfd_socket: Path | None = None,
    preserve_fds: int = 0,
    extra_fds: Sequence[int] = (),
    parent_death_signal: int = 0,
    listen_fds: int = 0,
    notify: bool = False,
    no_pivot: bool = False,
    rootless: bool | None = None,
    new_keyring: bool = True,
    systemd_cgroup: bool = False,
    hooks: InProcessHooks | None = None,
) -> State:
    """Create the container *container_id* from *bundle*; its process waits for start.

    Raises ContainerError; nothing is then left of it.
    """
    check_id(container_id)
    fds = preserved(listen_fds + preserve_fds, extra_fds)
    try:
        with Undo() as undo, failing(f"creating container {container_id}"):
            listener = undo.enter_context(pidfd.listening(pidfd_socket))
            directory = reserve(root, container_id, undo)
            # Started before all else: its interpreter takes as long to come up as we to read the
            # spec and to make the cgroups, what we import for that included.
            init = undo.enter_context(Launched.spawn(INIT, stdio or Stdio(), fds=fds))
            from runtime.assemble import Assembly  # noqa: PLC0415 - lazy: 20 ms, on the other CPU

            assembly = Assembly(
                container_id,
                bundle.absolute(),
                networks,
                directory,
                new_keyring=new_keyring,
                systemd_cgroup=systemd_cgroup,
                rootless=rootless,
                hooks=hooks or {},
            )
            assembly.activate(listen_fds, notify=notify)
            assembly.make(
                init,
                undo,
                terminal=terminal,
                preserve_fds=len(fds),
                parent_death_signal=parent_death_signal,
                no_pivot=no_pivot,
            )
            init.hand_over(listener)
            if pid_file:
                from runtime.process import pidfile  # noqa: PLC0415 - lazy: 1 ms

                pidfile.write(pid_file, init.pid)
    except HookFailed:
        assembly.run_poststop()
        raise
    return assembly.state
