"""The steps of a create: cgroups, init, network, limits and hooks, each in its time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criu_rpc.logger import Logger
from runtime import affinity, hook_points, namespaces, processes
from runtime.caller import is_host_root
from runtime.cgroups import delegation, manager, resolve_path, unit_paths
from runtime.errors import SetupFailed, UnsupportedField
from runtime.hook_points import HookName
from runtime.process import planner
from runtime.process.channel import MOUNTED, READY
from runtime.rootless import cgroups_for, check
from runtime.seccomp.words import listens
from runtime.spec.reading import load
from runtime.state import ANSWER_FIFO, EXEC_FIFO, NOTIFY_DIRECTORY, State, Status, now, process_stat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.cgroups import CgroupManager
    from runtime.hook_points import InProcessHook, InProcessHooks
    from runtime.network import Networks
    from runtime.process.id_maps import IdMaps
    from runtime.process.parent import Launched
    from runtime.process.plan import InitPlan
    from runtime.process.terminal import Terminal
    from runtime.spec.model import Spec
    from runtime.undo import Undo

logger = Logger(__name__)


def first_state(
    container_id: str,
    bundle: Path,
    spec: Spec,
    networks: Networks | None,
    *,
    systemd_cgroup: bool = False,
) -> State:
    """The state of a container of which nothing is there yet; *networks* get all their names."""
    paths = _cgroup_paths(spec.linux.cgroups_path, container_id, systemd=systemd_cgroup)
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
        cgroup_paths={name: str(path) for name, path in paths.items()},
        systemd_cgroup=systemd_cgroup,
        keyring=f"_ses.{container_id}",  # runc's name for it
    )


def _cgroup_paths(cgroups_path: str, container_id: str, *, systemd: bool) -> dict[str, Path]:
    if systemd:
        return unit_paths(cgroups_path, container_id)
    if cgroups_path.count(":") == 2 and not cgroups_path.startswith("/"):
        why = "slice:prefix:name is for the systemd driver: give --systemd-cgroup"
        raise UnsupportedField("config.json", [("linux.cgroupsPath", why)])
    return manager(resolve_path(cgroups_path, container_id)).paths


class Assembly:
    """A container on its way from its bundle to the exec fifo."""

    def __init__(
        self,
        container_id: str,
        bundle: Path,
        networks: Networks | None,
        directory: Path,
        *,
        new_keyring: bool,
        systemd_cgroup: bool,
        rootless: bool | None,
        hooks: InProcessHooks,
    ) -> None:
        self.spec = load(bundle)
        self._rootless = not is_host_root() if rootless is None else rootless
        state = first_state(
            container_id, bundle, self.spec, networks, systemd_cgroup=systemd_cgroup
        )
        state = state._replace(rootless=self._rootless)
        self.state = state if new_keyring else state._replace(keyring="")
        self._networks = networks
        self._directory = directory
        self._in_process = hooks
        self._notify = False

    def activate(self, listen_fds: int, *, notify: bool) -> None:
        """Tell its process of what a service manager gives it (sd_listen_fds(3), sd_notify(3))."""
        check(self.spec)
        process = self.spec.process
        env = process.env
        if listen_fds:
            env = (*env, f"LISTEN_FDS={listen_fds}", "LISTEN_PID=1")
        if notify:
            from runtime.process.notify import PATH  # noqa: PLC0415 - seldom needed

            env = (*env, f"NOTIFY_SOCKET={PATH}")
        self.spec = self.spec._replace(process=process._replace(env=env))
        # Who is not root cannot take the socket that init makes out of it: `start` makes one.
        self._notify = notify and os.geteuid() == 0
        if notify and not self._notify:
            self._mount_notify_directory()

    def _mount_notify_directory(self) -> None:
        from runtime.process.notify import DIRECTORY  # noqa: PLC0415 - seldom needed
        from runtime.spec.model import Mount  # noqa: PLC0415 - there since the spec was read

        ours = self._directory / NOTIFY_DIRECTORY
        ours.mkdir()
        ours.chmod(0o711)  # for every user of the container, whatever the umask is
        mounted = Mount(DIRECTORY, "bind", str(ours), ("bind", "ro"))
        self.spec = self.spec._replace(mounts=(*self.spec.mounts, mounted))

    def make(
        self,
        init: Launched,
        undo: Undo,
        *,
        terminal: Terminal | None,
        preserve_fds: int,
        parent_death_signal: int,
        no_pivot: bool,
    ) -> None:
        """Lead *init* through its steps, and do meanwhile what is to be done from outside."""
        taker = self._taker(terminal, undo)
        fifo, answer = self._make_fifos()
        self.state, cgroup = cgroups_for(self.spec, self.state, rootless=self._rootless)
        undo.on_error(cgroup.end)
        plan = planner.init_plan(
            self.spec,
            self.state,
            exec_fifo=fifo,
            answer_fifo=answer,
            preserve_fds=preserve_fds,
            parent_death_signal=parent_death_signal,
            no_pivot=no_pivot,
            notify=self._notify,
        )
        pid = self._let_in(init, plan, cgroup, undo)
        notify_fd = self._equip(init, pid, cgroup, undo)
        if taker is not None:
            taker.take(init)
        init.receive(READY)
        logger.debug("init: closing the pipe to signal completion: it waits at %s", fifo)
        self._save(
            notify_fd=notify_fd,
            namespace_paths=namespaces.paths_of(pid),
            external_descriptors=processes.standard_descriptors(pid),
            uncovered=0,
        )

    def _make_fifos(self) -> tuple[Path, Path | None]:
        """What init waits at for `start`, and where that answers, if it has to."""
        fifo, answer = self._directory / EXEC_FIFO, self._directory / ANSWER_FIFO
        os.mkfifo(fifo, 0o600)
        if not listens(self.spec.linux.seccomp):
            return fifo, None
        os.mkfifo(answer, 0o600)
        return fifo, answer

    def _let_in(self, init: Launched, plan: InitPlan, cgroup: CgroupManager, undo: Undo) -> int:
        """Put *init* into its cgroups, and have it enter its namespaces; its pid from then on."""
        uncovered = self._note_cover(undo)
        # From here on what is in it is ours to kill: only now may others read of it in the state.
        self._save(uncovered=uncovered)
        undo.on_error(init.kill)
        cgroup.join(init.launcher_pid)
        delegation.carry_out(self.spec, cgroup)
        maps, is_new = self._id_maps(), self.spec.linux.owns("user")
        pid = init.tell(plan, maps if is_new else None)
        if maps and not is_new:
            maps.expect(pid)
        self._save(init_pid=pid, init_start_time=_start_time(pid))
        init.go()
        return pid

    def _note_cover(self, undo: Undo) -> int:
        """The mount that its rootfs leads to, where it will be mounted over on the host; else 0."""
        mount = self.spec.linux.namespace("mount")
        if self.spec.linux.owns("mount"):
            return 0
        from runtime.rootfs import host_mounts  # noqa: PLC0415 - seldom needed

        return host_mounts.uncover_on_error(self.state.rootfs, mount and mount.path, undo)

    def _equip(self, init: Launched, pid: int, cgroup: CgroupManager, undo: Undo) -> int:
        """Give it from outside what it waits for: network, limits and hooks.

        Returns which of its descriptors is its notify socket, 0 for none.
        """
        if self._networks:
            self._make_network(self._networks, pid, undo)
        if self.spec.linux.net_devices:
            from runtime.network.moved import move_in  # noqa: PLC0415 - lazy: 10 ms

            move_in(self.spec.linux.net_devices, pid, undo)
        (notify_fd,) = init.receive(MOUNTED)
        cgroup.set(self.spec.linux.resources, with_devices=is_host_root())
        affinity.reset(pid)
        if self.spec.linux.intel_rdt:
            self._join_rdt_group(pid, undo)
        self._run_hooks()
        init.go()
        return int(notify_fd)

    def run_poststop(self) -> None:
        """What the specification wants after a hook has failed and all is undone."""
        state = self.state.oci(Status.STOPPED)
        hook_points.run_all(
            HookName.POSTSTOP, self.spec.hooks.poststop, state, self._own_hooks(HookName.POSTSTOP)
        )

    def _id_maps(self) -> IdMaps | None:
        linux = self.spec.linux
        if not (linux.uid_mappings or linux.gid_mappings):
            return None
        from runtime.process.id_maps import IdMaps  # noqa: PLC0415 - lazy: 1 ms

        return IdMaps(linux.uid_mappings, linux.gid_mappings)

    def _taker(self, terminal: Terminal | None, undo: Undo) -> Terminal | None:
        if terminal is None and not self.spec.process.terminal:
            return None
        from runtime.process.terminal import taker  # noqa: PLC0415 - lazy: 1 ms

        if terminal is not None:
            undo.on_error(terminal.close)
        return taker(self.spec.process, terminal)

    def _save(self, **changes: Any) -> None:
        """Note what has become known, so that delete finds it whatever happens to us."""
        self.state = self.state._replace(**changes)
        self.state.save(self._directory)

    def _make_network(self, networks: Networks, pid: int, undo: Undo) -> None:
        from runtime.network import setup, teardown  # noqa: PLC0415 - lazy: 40 ms

        if not self.spec.linux.namespace("network"):
            why = "the container has no network namespace: it would be made on the host"
            raise SetupFailed("making the network", why)
        wanted = networks.complete(self.state.id)
        setup(wanted, pid, self.state.id)
        undo.on_error(teardown, wanted, self.state.id)

    def _join_rdt_group(self, pid: int, undo: Undo) -> None:
        from runtime import resctrl_group  # noqa: PLC0415 - lazy: few hosts have it

        self.state = resctrl_group.enter(self.state, self.spec, pid, undo)
        self._save()

    def _run_hooks(self) -> None:
        hooks, state = self.spec.hooks, self.state.oci(Status.CREATING)
        for name, programs in (
            (HookName.PRESTART, hooks.prestart),
            (HookName.CREATE_RUNTIME, hooks.create_runtime),
        ):
            hook_points.run(name, programs, state, self._own_hooks(name))

    def _own_hooks(self, name: HookName) -> Sequence[InProcessHook]:
        return self._in_process.get(name, ())


def _start_time(pid: int) -> int:
    stat = process_stat(pid)
    assert stat is not None, "init is our child, and nobody has reaped it"
    return stat.start_time
