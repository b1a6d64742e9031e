"""What is restored, where, and what CRIU is told of it: decided before anything is made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from criu_rpc import ManageCgroups, VethPair, find_criu, images
from criu_rpc import RestoreOptions as CriuOptions
from criu_rpc.logger import Logger
from criu_rpc.pages import check_pages
from runtime import lsm, rlimits, scheduling
from runtime.assemble import first_state
from runtime.checkpoint import externals, records
from runtime.checkpoint.criu_config import criu_config
from runtime.checkpoint.incremental_chain import check_links
from runtime.checkpoint.records import Record, spec_digest
from runtime.checkpoint.restore_options import RestoreOptions
from runtime.checkpoint.shelf import Shelf, public_directory
from runtime.constants import CLONE_NEWNET, MS_SLAVE
from runtime.errors import RestoreFailed
from runtime.memory import userfaultfd
from runtime.network.capture import Description
from runtime.network.models import Networks
from runtime.rootfs import mounts, propagation
from runtime.spec.model import Spec
from runtime.spec.reading import load, with_resources
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
    #: what criu is not to take from where it lies
    shelf: Shelf = field(init=False)
    #: name of an interface inside -> its name here, until CRIU moves it
    _ahead: dict[str, str] = field(init=False, default_factory=dict)

    @classmethod
    def make(
        cls, container_id: str, bundle: Path, options: RestoreOptions, directory: Path
    ) -> Self:
        """Read bundle and record, and check what this host has to offer for them.

        Raises BundleError, InvalidSpec, InvalidNetwork, SetupFailed, RestoreFailed, BadImages.
        """
        spec = load(bundle)
        if why := lsm.obstacle(_profile(spec, options)):
            raise RestoreFailed(container_id, why)
        if options.record is None:  # then the images are there, to be looked at in peace
            images.check(options.image_path)
            check_pages(options.image_path)
            check_links(options.image_path)
        record = options.record or records.load(options.image_path, container_id)
        if record.spec_sha256 not in ("", spec_digest(spec.raw)):
            logger.debug("%s is not the config.json that the container was dumped with", bundle)
        _check_users(container_id, spec, options, record)
        networks = Networks()
        options = options.dumped_with(record)
        if spec.linux.owns("network") and not options.empty_network:
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
        plan.shelf = plan._make_shelf()
        return plan

    def take_resources(self, record: Record) -> None:
        """Have it get the limits of *record*, where an update has changed those of config.json."""
        if record.resources:
            self.spec = with_resources(self.spec, record.resources)
            self.change_state(updated_resources={**self.state.resources, **record.resources})

    @property
    def namespace(self) -> Description | None:
        """The network namespace that we are to make, in CRIU's place."""
        ours = self.spec.linux.owns("network") and not self.options.empty_network
        return self.record.namespace if ours else None

    @property
    def waits_for_us(self) -> bool:
        """Whether we have its pages waited for, where its processes may not."""
        options = self.options
        return options.lazy_pages and options.own_images and self.spec.linux.user_namespace

    def change_state(self, **changes: Any) -> None:
        """Note what has become known."""
        self.state = self.state._replace(**changes)

    def place_plan(self) -> dict[str, Any]:
        """What the launcher is told: see runtime/process/plan.py, RestorePlan."""
        table = mounts.of_spec(self.spec, self.state.bundle, self.state.cgroup_paths)
        root_receives = propagation.root_receives(self.spec.linux)
        return {
            "rootfs": {
                "path": str(self.state.rootfs),
                "own_mounts": True,
                "propagation": MS_SLAVE if root_receives else 0,
                # only their mount points are made
                "mounts": [{**mount, "idmap": None, "copy_up": False} for mount in table.mounts],
            },
            "cgroup_namespace": self.spec.linux.owns("cgroup"),
            "private_tmp": not self._uses_tmp(),
            "huge_pages": not self.waits_for_us,
            "shelf": self.shelf.plan(),
            "receives": root_receives or any(map(propagation.receives, table.mounts)),
            "claim": self._claim() if self.spec.linux.user_namespace else None,
            "labels": lsm.plan_of_restored(
                self.spec.process, self.spec.linux, keyring=self.state.keyring
            ),
            "scheduling": scheduling.plan_of_restored(self.spec.process, self.spec.linux),
        }

    def _claim(self) -> dict[str, Any]:
        process = self.spec.process
        return {
            "rlimits": rlimits.plan(process.rlimits),
            "oom_score_adj": process.oom_score_adj,
        }

    def _make_shelf(self) -> Shelf:
        own = self.spec.linux.user_namespace
        sources = tuple(each for each in self._sources() if own or each.idmap or each.below)
        if not own:
            return Shelf(self.directory, private=True, tmpfs=self.record.tmpfs, sources=sources)
        return Shelf(
            public_directory(self.state.id, self._needed()),
            private=False,
            tmpfs=self.record.tmpfs,
            sources=sources,
            shows_images=True,
        )

    def peers(self) -> list[externals.Source]:
        """Of the mounts that were peers of the host's."""
        if not self.record.peers or self.spec.linux.user_namespace:
            return []
        return externals.peers_to_restore(self._sources(), self._binds(), self.record.peers)

    def _sources(self) -> list[externals.Source]:
        """Of every external mount."""
        return externals.mounts_to_restore(self.spec, self._binds(), self.record.submounts)

    def _binds(self) -> list[externals.Bind]:
        return externals.binds(self.spec, self.state.bundle, self.state.cgroup_paths)

    def _needed(self) -> list[Path]:
        """What CRIU, or what starts it, opens by its path, wherever it is."""
        criu, config = find_criu(self.options.criu), criu_config(self.state.annotations)
        needed = [criu, self.state.rootfs, self.directory, *self.namespaces.values()]
        return [*needed, config] if config else needed

    def _uses_tmp(self) -> bool:
        """Whether one of these lies below /tmp."""
        shelved = set(self.shelf.sources)
        sources = (Path(each.path) for each in self._sources() if each not in shelved)
        return any(path.resolve().is_relative_to("/tmp") for path in (*self._needed(), *sources))

    def criu_options(self, criu_pid: int) -> CriuOptions:
        """The request."""
        options = self.options
        shelved = self.shelf.external()
        names = {name for name, _ in shelved}
        # criu/mount-v2.c would mount a symbolic link itself (open_tree(2) AT_SYMLINK_NOFOLLOW).
        on_host = [
            (each.name, os.path.realpath(each.path))
            for each in self._sources()
            if each.name not in names
        ]
        return CriuOptions(
            images_dir=self._images_of(criu_pid),
            work_dir=options.work_path or options.image_path,
            root=self.state.rootfs,
            config_file=criu_config(self.state.annotations),
            ext_mnt=(*on_host, *shelved),
            veths=self._veths(),
            external=tuple(f"netdev[{inside}]:{here}" for inside, here in self._ahead.items()),
            join_ns=externals.namespaces_to_join(self.spec),
            cg_roots=tuple(self._cgroup_roots(criu_pid)),
            manage_cgroups_mode=options.manage_cgroups_mode,
            tcp_established=options.tcp_established,
            tcp_close=options.tcp_close,
            ext_unix_sk=options.ext_unix_sk,
            shell_job=options.shell_job,
            file_locks=options.file_locks,
            empty_ns=CLONE_NEWNET if self._begins_empty() else None,
            lsm_profile=options.lsm_profile,
            lsm_mount_context=options.lsm_mount_context,
            lazy_pages=options.lazy_pages and not self.waits_for_us,
            auto_dedup=options.auto_dedup,
            orphan_pts_master=True,
        )

    def _images_of(self, criu_pid: int) -> Path:
        """Where criu reads the images: maybe in its mount namespace."""
        path = self.shelf.images_dir
        return Path(f"/proc/{criu_pid}/root{path}") if path else self.options.image_path

    def _cgroup_roots(self, criu_pid: int) -> list[tuple[str | None, str]]:
        """Where CRIU is to put cgroups that it manages itself: where it is, by cgroups(7)."""
        if self.options.manage_cgroups_mode is ManageCgroups.IGNORE:
            return []
        lines = Path(f"/proc/{criu_pid}/cgroup").read_text().splitlines()
        fields = (line.split(":", 2) for line in lines)
        return [(controllers or None, path) for _, controllers, path in fields]

    def _begins_empty(self) -> bool:
        """Whether CRIU makes an empty network namespace, which others fill, or we."""
        filled_by_us = self.namespace is not None and self.spec.linux.user_namespace
        return self.options.empty_network or filled_by_us

    def _veths(self) -> tuple[VethPair, ...]:
        """The pairs that CRIU makes."""
        if self.namespace or self._ahead:
            return ()
        return tuple(
            VethPair(network.name, f"{network.host_interface_name}@{network.bridge}")
            for network in self.networks.veths
        )

    def make_network_ahead(self) -> None:
        """Make the pairs that CRIU only moves. Raises NetworkError; `remove_network` undoes it."""
        if self.networks.veths and not self.namespace and self.spec.linux.user_namespace:
            from runtime.network.links import make_ahead  # noqa: PLC0415 - lazy: 150 ms

            self._ahead = make_ahead(self.networks, self.state.id)

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


def _check_users(container_id: str, spec: Spec, options: RestoreOptions, record: Record) -> None:
    """See that the maps of *spec* are those that CRIU takes from the images.

    By them the container's root is known here, and what he is given. And that pages can wait for
    a server: in a user namespace the kernel may deny it (userfaultfd(2), criu/uffd.c: uffd_open),
    and other than in `waits_for_us` the images would have to be others.
    """
    known = record.spec_sha256 or record.id_maps is not None  # else another runtime's images
    if known and record.id_maps != mounts.own_idmap(spec.linux):
        why = "its user namespace was another: the config.json has other uidMappings or gidMappings"
        if record.id_maps is None:
            why = "it had no user namespace of its own: the config.json has one"
        raise RestoreFailed(container_id, why)
    asked_inside = options.lazy_pages and not options.own_images and spec.linux.user_namespace
    if asked_inside and not userfaultfd.is_for_everybody():
        why = "pages cannot wait in a user namespace: set vm.unprivileged_userfaultfd=1 (sysctl(8))"
        raise RestoreFailed(container_id, why)


def _profile(spec: Spec, options: RestoreOptions) -> str:
    """The AppArmor profile that CRIU is to give it."""
    module, _, name = (options.lsm_profile or "").partition(":")
    return name if module == "apparmor" else spec.process.apparmor_profile
