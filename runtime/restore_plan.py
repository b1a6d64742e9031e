"""What is restored, where, and what CRIU is told of it: decided before anything is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from criu_rpc import ManageCgroups, VethPair, find_criu, images
from criu_rpc import RestoreOptions as CriuOptions
from criu_rpc.logger import Logger
from criu_rpc.pages import check_pages
from runtime import externals, lsm, mounts, records, scheduling
from runtime.assemble import first_state
from runtime.constants import CLONE_NEWNET
from runtime.criu_config import criu_config
from runtime.incremental_chain import check_links
from runtime.network.capture import Description
from runtime.network.models import Networks
from runtime.records import Record, spec_digest
from runtime.restore_options import RestoreOptions
from runtime.spec import load, with_resources
from runtime.spec_model import Spec
from runtime.state import State

logger = Logger(__name__)


@dataclass(slots=True)
class RestorePlan:
    """One container as it is to be; its state grows as it comes to be."""

    options: RestoreOptions
    spec: Spec
    record: Record
    state: State
    #: those that CRIU makes: none where the network namespace is given by path
    networks: Networks
    #: CRIU's key -> path of network and pid namespaces given by path
    namespaces: Mapping[str, Path]
    #: the container's own, where its state is: criu needs nothing of it
    directory: Path

    @classmethod
    def make(
        cls, container_id: str, bundle: Path, options: RestoreOptions, directory: Path
    ) -> Self:
        """Read bundle and record, and check what this host has to offer for them.

        Raises BundleError, InvalidSpec, InvalidNetwork, SetupFailed, RestoreFailed, BadImages.
        """
        spec = load(bundle)
        if options.record is None:  # then the images are there, to be looked at in peace
            images.check(options.image_path)
            check_pages(options.image_path)
            check_links(options.image_path)
        record = options.record or records.load(options.image_path, container_id)
        if record.spec_sha256 not in ("", spec_digest(spec.raw)):
            logger.info("%s is not the config.json that the container was dumped with", bundle)
        own = spec.linux.namespace("network")
        networks = Networks()
        options = options.dumped_with(record)
        if own and not own.path and not options.empty_network:
            networks = options.place(record.networks, container_id)
        systemd = options.systemd_cgroup
        plan = cls(
            options=options,
            spec=spec,
            record=record,
            state=first_state(
                container_id,
                bundle,
                spec,
                networks,
                systemd_cgroup=record.systemd_cgroup if systemd is None else systemd,
            ),
            networks=networks,
            namespaces=externals.namespaces_by_path(spec),
            directory=directory,
        )
        if not record.own_keyring:
            plan.change_state(keyring="")
        plan.take_resources(record)
        return plan

    def take_resources(self, record: Record) -> None:
        """Have it get the limits of *record*, where an update has changed those of config.json."""
        if record.resources:
            self.spec = with_resources(self.spec, record.resources)
            self.change_state(updated_resources={**self.state.resources, **record.resources})

    @property
    def namespace(self) -> Description | None:
        """The network namespace that we are to make, in CRIU's place."""
        own = self.spec.linux.namespace("network")
        ours = own and not own.path and not self.options.empty_network
        return self.record.namespace if ours else None

    def change_state(self, **changes: Any) -> None:
        """Note what has become known."""
        self.state = self.state._replace(**changes)

    def place_plan(self) -> dict[str, Any]:
        """What the launcher is told: see runtime/process/plan.py, RestorePlan."""
        table = mounts.of_spec(self.spec, self.state.bundle, self.state.cgroup_paths)
        namespace = self.spec.linux.namespace("cgroup")
        return {
            "rootfs": {
                "path": str(self.state.rootfs),
                "own_mounts": True,
                "propagation": 0,
                # only their mount points are made
                "mounts": [{**mount, "idmap": None, "copy_up": False} for mount in table.mounts],
            },
            "cgroup_namespace": namespace is not None and not namespace.path,
            "private_tmp": not self._uses_tmp(),
            "tmpfs_directory": str(self.directory),
            "tmpfs": [
                {
                    "name": str(number),
                    "source": mount.source,
                    "options": [tuple(each.partition("=")[::2]) for each in mount.options],
                }
                for number, mount in enumerate(self.record.tmpfs)
            ],
            "labels": lsm.plan_of_restored(
                self.spec.process, self.spec.linux, keyring=self.state.keyring
            ),
            "scheduling": scheduling.plan_of_restored(self.spec.process, self.spec.linux),
        }

    def tmpfs_places(self) -> dict[str, str]:
        """Mount point in the container -> where the launcher has mounted it, as criu sees it."""
        return {
            mount.point: f"{self.directory}/{number}"
            for number, mount in enumerate(self.record.tmpfs)
        }

    def _uses_tmp(self) -> bool:
        """Whether CRIU, or what starts it, will open something below /tmp by its path."""
        binds = externals.binds(self.spec, self.state.bundle, self.state.cgroup_paths)
        sources = (Path(source) for _, source in externals.mounts_to_restore(binds, ()))
        criu = find_criu(self.options.criu)
        paths = (criu, self.state.rootfs, self.directory, *self.namespaces.values(), *sources)
        return any(path.resolve().is_relative_to("/tmp") for path in paths)

    def criu_options(self, criu_pid: int) -> CriuOptions:
        """The request."""
        options = self.options
        binds = externals.binds(self.spec, self.state.bundle, self.state.cgroup_paths)
        places = self.tmpfs_places()
        return CriuOptions(
            images_dir=options.image_path,
            work_dir=options.work_path,
            root=self.state.rootfs,
            config_file=criu_config(self.state.annotations),
            ext_mnt=(
                *externals.mounts_to_restore(binds, self.record.submounts),
                *((mount.name, places[mount.point]) for mount in self.record.tmpfs),
            ),
            veths=tuple(
                VethPair(network.name, f"{network.host_interface_name}@{network.bridge}")
                for network in self.networks.veths
                if not self.namespace
            ),
            join_ns=externals.namespaces_to_join(self.spec),
            cg_roots=tuple(self._cgroup_roots(criu_pid)),
            manage_cgroups_mode=options.manage_cgroups_mode,
            tcp_established=options.tcp_established,
            tcp_close=options.tcp_close,
            ext_unix_sk=options.ext_unix_sk,
            shell_job=options.shell_job,
            file_locks=options.file_locks,
            empty_ns=CLONE_NEWNET if options.empty_network else None,
            lsm_profile=options.lsm_profile,
            lsm_mount_context=options.lsm_mount_context,
            lazy_pages=options.lazy_pages,
            auto_dedup=options.auto_dedup,
            orphan_pts_master=True,
        )

    def _cgroup_roots(self, criu_pid: int) -> list[tuple[str | None, str]]:
        """Where CRIU is to put cgroups that it manages itself: where it is, by cgroups(7)."""
        if self.options.manage_cgroups_mode is ManageCgroups.IGNORE:
            return []
        lines = Path(f"/proc/{criu_pid}/cgroup").read_text().splitlines()
        fields = (line.split(":", 2) for line in lines)
        return [(controllers or None, path) for _, controllers, path in fields]

    def warm_up(self) -> None:
        """Have loaded now what is needed while the container stands still."""
        if self.networks.veths and not self.namespace:
            from runtime.network import rtnetlink  # noqa: PLC0415 - lazy: 150 ms

            with rtnetlink.connect():
                pass

    def adopt_network(self) -> None:
        """Give the host ends that CRIU has made what it does not give them."""
        if self.networks.veths and not self.namespace:
            from runtime.network import adopt  # noqa: PLC0415 - lazy: loaded by warm_up

            adopt(self.networks, self.state.id)

    def remove_network(self) -> None:
        """Remove the host ends; those that are not there are no error."""
        if self.networks.veths:
            from runtime.network import teardown  # noqa: PLC0415 - lazy: loaded by warm_up

            teardown(self.networks, self.state.id)
