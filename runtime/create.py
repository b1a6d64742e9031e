"""Make a container up to the point where its process waits for start (OCI runtime-spec "create").

Every step has its undo beside it: a create that fails leaves no process, cgroup, directory, mount
or interface behind.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import hook_points, namespaces
from runtime.cgroups import manager, resolve_path
from runtime.delete import destroy_cgroup, remove_tree
from runtime.errors import ContainerExists, HookFailed, SetupFailed
from runtime.process import pidfile, planner
from runtime.process.channel import MOUNTED, READY
from runtime.process.parent import INIT, Launched
from runtime.process.stdio import Stdio
from runtime.spec import load
from runtime.state import EXEC_FIFO, State, Status, check_id, lock, now, process_stat
from runtime.undo import Undo

if TYPE_CHECKING:
    from runtime.network import Networks
    from runtime.spec_model import Spec

# Init opens it for writing as the container's user, whoever that is.
_FIFO_MODE = 0o622


class _Creation:
    """What the steps of one create have in common."""

    spec: Spec
    state: State

    def __init__(self, undo: Undo, directory: Path) -> None:
        self.undo = undo
        self.directory = directory
        self.fifo = directory / EXEC_FIFO

    def save(self, **changes: Any) -> None:
        """Note what has become known, so that delete finds it whatever happens to us."""
        self.state = replace(self.state, **changes)
        self.state.save(self.directory)


def create(
    root: Path,
    container_id: str,
    bundle: Path,
    *,
    networks: Networks | None = None,
    stdio: Stdio | None = None,
    pid_file: Path | None = None,
    preserve_fds: int = 0,
) -> State:
    """Create the container *container_id* from *bundle*; its process waits for start.

    networks: interfaces to be made in its network namespace; stdio: null by default;
    preserve_fds: how many descriptors after the standard three the process gets.
    Raises ContainerError; nothing is then left of it.
    """
    check_id(container_id)
    keep = preserved(preserve_fds)
    try:
        with Undo() as undo:
            creation = _Creation(undo, reserve(root, container_id, undo))
            # Started first of all: it takes as long to be there as what we do meanwhile.
            init = undo.enter_context(Launched.spawn(INIT, stdio or Stdio(), keep=keep))
            creation.spec = load(bundle)
            creation.state = first_state(container_id, bundle.absolute(), creation.spec, networks)
            _set_up(creation, init, networks, preserve_fds)
            if pid_file:
                pidfile.write(pid_file, init.pid)
    except HookFailed:
        spec, state = creation.spec, creation.state
        hook_points.run_all("poststop", spec.hooks.poststop, state.oci(Status.STOPPED))
        raise
    return creation.state


def reserve(root: Path, container_id: str, undo: Undo) -> Path:
    """Take the id: make its state directory, and hold its lock until *undo* ends.

    Raises ContainerExists when it is taken.
    """
    directory = root / container_id
    try:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        directory.mkdir(mode=0o711)
    except FileExistsError:
        raise ContainerExists(container_id) from None
    except OSError as exc:
        raise SetupFailed("making the state directory", f"{exc.filename}: {exc.strerror}") from exc
    undo.on_error(remove_tree, directory)
    undo.enter_context(lock(directory))
    return directory


def preserved(count: int) -> tuple[int, ...]:
    """The *count* descriptors after the standard three; SetupFailed when one is not open.

    To be asked before anything is opened: nothing of ours must come to be among them.
    """
    fds = tuple(range(3, 3 + count))
    for fd in fds:
        try:
            fcntl.fcntl(fd, fcntl.F_GETFD)
        except OSError:
            why = f"descriptor {fd} is not open"
            raise SetupFailed(f"preserving {count} descriptors", why) from None
    return fds


def first_state(container_id: str, bundle: Path, spec: Spec, networks: Networks | None) -> State:
    """The state of a container of which nothing is there yet; *networks* get all their names."""
    cgroup = manager(resolve_path(spec.linux.cgroups_path, container_id))
    wanted = networks.complete(container_id).to_json() if networks else {}
    return State(
        id=container_id,
        oci_version=spec.oci_version,
        bundle=bundle,
        rootfs=spec.rootfs(bundle),
        spec=dict(spec.raw),
        created=now(),
        networks=wanted.get("networks", []),
        routes=wanted.get("routes", []),
        cgroup_paths={name: str(path) for name, path in cgroup.paths.items()},
    )


def _set_up(
    creation: _Creation, init: Launched, networks: Networks | None, preserve_fds: int
) -> None:
    """Lead init through its steps, and do meanwhile what is to be done from outside."""
    spec, undo = creation.spec, creation.undo
    plan = planner.init_plan(
        spec, creation.state, exec_fifo=creation.fifo, preserve_fds=preserve_fds
    )
    _make_fifo(creation.fifo)
    cgroup = manager("", paths=creation.state.cgroup_paths)
    cgroup.create()
    undo.on_error(destroy_cgroup, cgroup)
    # From here on what is in it is ours to kill: only now may others read of it in the state.
    creation.save()
    undo.on_error(init.kill)
    cgroup.join(init.launcher_pid)
    pid = init.tell(plan)
    stat = process_stat(pid)
    assert stat is not None, "init is our child and was not reaped"
    creation.save(init_pid=pid, init_start_time=stat.start_time)
    init.go()
    if networks:
        _make_network(creation, networks, pid)
    init.receive(MOUNTED)
    cgroup.set(spec.linux.resources)
    hook_points.run("prestart", spec.hooks.prestart, creation.state.oci(Status.CREATING))
    hook_points.run("createRuntime", spec.hooks.create_runtime, creation.state.oci(Status.CREATING))
    init.go()
    init.receive(READY)
    creation.save(
        namespace_paths=namespaces.paths_of(pid),
        external_descriptors=[os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)],
    )


def _make_fifo(path: Path) -> None:
    """Init opens it once all is set up, and thereby waits until `start` opens it too (fifo(7))."""
    try:
        os.mkfifo(path)
        path.chmod(_FIFO_MODE)  # whatever the umask is
    except OSError as exc:
        raise SetupFailed("making the exec fifo", f"{path}: {exc.strerror}") from exc


def _make_network(creation: _Creation, networks: Networks, pid: int) -> None:
    from runtime.network import setup, teardown  # noqa: PLC0415 - lazy: 40 ms

    if not creation.spec.linux.namespace("network"):
        why = "the container has no network namespace: it would be made on the host"
        raise SetupFailed("making the network", why)
    wanted = networks.complete(creation.state.id)
    setup(wanted, pid, creation.state.id)
    creation.undo.on_error(teardown, wanted, creation.state.id)
