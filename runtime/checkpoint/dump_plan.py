"""What a dump takes of a container and what it leaves outside: decided while the container runs."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from criu_rpc.logger import Logger
from runtime import processes
from runtime.checkpoint import descriptors, externals, tmpfs
from runtime.checkpoint.immovable import objections
from runtime.checkpoint.options import CheckpointOptions
from runtime.checkpoint.records import Dumped, Record, spec_digest
from runtime.container import Container
from runtime.errors import CheckpointFailed, WrongStatus
from runtime.network.models import Networks
from runtime.rootfs import mountinfo, propagation
from runtime.rootfs.mounts import own_idmap
from runtime.state import Status

logger = Logger(__name__)


class DumpPlan(NamedTuple):
    """A container that can be dumped, as far as can be known before it stands still."""

    was_paused: bool
    #: processes that exec started: CRIU does not find them by descent
    strangers: list[int]
    #: those that CRIU is to leave to whoever restores it
    mounts: list[externals.ExternalMount]
    record: Record


def of(container: Container, options: CheckpointOptions) -> DumpPlan:
    """The plan for *container*. Raises WrongStatus, CheckpointFailed when it cannot be dumped."""
    was_paused = _check_status(container)
    if options.empty_network and not container.spec.linux.owns("network"):
        raise CheckpointFailed(container.id, "it has no network namespace of its own to empty")
    pid = container.state.init_pid
    strangers = processes.strangers(pid, container.processes())
    if strangers:
        logger.warning("processes %s were started by exec: no checkpoint has them", strangers)
    table = mountinfo.of_process(pid)
    binds = externals.binds(container.spec, container.state.bundle, container.state.cgroup_paths)
    points = externals.mounts_to_dump(container.spec, binds, pid, table)
    below = externals.submounts(points, binds, table)
    apart = externals.shown_apart(container.spec, binds, points, below)
    for why in propagation.objections(table, apart):
        raise CheckpointFailed(container.id, why)
    outside = [*points, *below]
    moved = _tmpfs(container, options, table, outside)
    record = replace(
        _record(container, options, table, [mount.name for mount in below]),
        tmpfs=moved,
        peers=propagation.peers(outside, table, mountinfo.of_thread()),
    )
    ours = [externals.ExternalMount(mount.point, mount.name) for mount in moved]
    return DumpPlan(was_paused, strangers, [*outside, *ours], record)


def _check_status(container: Container) -> bool:
    """Whether the container is paused; WrongStatus, CheckpointFailed when it cannot be dumped."""
    status = container.status()
    if status not in (Status.RUNNING, Status.PAUSED):
        raise WrongStatus(container.id, status, ("running", "paused"))
    for why in objections(container.spec, container.processes()):
        raise CheckpointFailed(container.id, why)
    return status is Status.PAUSED


def _tmpfs(
    container: Container,
    options: CheckpointOptions,
    table: list[mountinfo.MountInfo],
    external: list[externals.ExternalMount],
) -> tuple[tmpfs.Tmpfs, ...]:
    """The mounts that we move: with link_remap none, since CRIU makes files in them as it dumps.

    Nor those of a user namespace: its root may change the limits of a tmpfs that it has mounted,
    and not of one that we have (mount(8) remount).
    """
    if not options.own_tmpfs or options.link_remap or container.spec.linux.user_namespace:
        return ()
    mounts = tmpfs.movable(table, (mount.point for mount in external))
    return tuple(tmpfs.small(container.state.init_pid, mounts))


def _record(
    container: Container,
    options: CheckpointOptions,
    table: list[mountinfo.MountInfo],
    submounts: list[str],
) -> Record:
    state = container.state
    mount_ids = {info.id for info in table}
    standard = descriptors.of_process(state.init_pid, mount_ids)
    descriptors.check_others(container.id, container.processes(), mount_ids, standard)
    return Record(
        container_id=container.id,
        spec_sha256=spec_digest(state.spec),
        descriptors=tuple(standard),
        networks=Networks.of(state),
        submounts=tuple(submounts),
        id_maps=own_idmap(container.spec.linux),
        resources=state.updated_resources,
        systemd_cgroup=state.systemd_cgroup,
        own_keyring=bool(state.keyring),
        dumped=Dumped(
            tcp_established=options.tcp_established,
            ext_unix_sk=options.ext_unix_sk,
            shell_job=options.shell_job,
            file_locks=options.file_locks,
            link_remap=options.link_remap,
            empty_network=options.empty_network,
        ),
    )
