"""Why a container cannot move, found out before anything is touched, on both hosts.

`needs` looks at the container and says what a destination must offer; `check` runs at the
destination (in the agent) and returns every reason against it at once, each with its remedy.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from criu_rpc import (
    Criu,
    CriuError,
    CriuNotFound,
    CriuRequestFailed,
    CriuTooOld,
    NetworkLock,
    Version,
    find_criu,
)
from migrator import journal, rootfs
from migrator.images import SPARE_BYTES, place_for
from migrator.messages import Preflight
from migrator.plan import Plan
from migrator.source import memory_bytes
from runtime import Container, State, lsm
from runtime.cgroups.detect import cgroup_version
from runtime.checkpoint import immovable
from runtime.memory.injection import tracer_of
from runtime.memory.registers import machine
from runtime.network import bridge_exists, network_lock
from runtime.processes import tasks_of
from runtime.state import check_id

# sd_booted(3)
_SYSTEMD = Path("/run/systemd/system")


def needs(plan: Plan, container: Container, criu: Criu) -> Preflight:
    """What the destination must offer for *container*; *criu* is the source's, already started."""
    state = container.state
    bundle = plan.bundle or state.bundle
    return Preflight(
        container=plan.container,
        bundle=str(bundle),
        rootfs=str(rootfs_there(plan, container)),
        rootfs_mode=plan.rootfs_mode,
        rootfs_bytes=rootfs.size_bytes(state.rootfs) if plan.rootfs_mode == "sync" else 0,
        memory_bytes=memory_bytes(container),
        machine=os.uname().machine,
        criu_version=list(criu.version()),
        cpuinfo=_cpuinfo(criu),
        cgroup_version=cgroup_version(),
        systemd=with_systemd(plan, state),
        namespaces=[entry["path"] for entry in _namespaces(container) if entry.get("path")],
        user_namespace=container.spec.linux.user_namespace,
        bridges=sorted({plan.bridges.get(name, name) for name in _bridges(container)}),
        mount_sources=list(_mount_sources(container)),
        profiles=sorted({lsm.profile_of(pid) for pid in container.processes()} - {""}),
        console_socket=str(plan.console_socket or ""),
    )


def with_systemd(plan: Plan, state: State) -> bool:
    """Whether systemd is to make the cgroup at the destination."""
    return state.systemd_cgroup if plan.systemd_cgroup is None else plan.systemd_cgroup


def objections(plan: Plan, container: Container) -> list[str]:
    """What stands in the way on this side."""
    found = []
    unknown = sorted(plan.bridges.keys() - _bridges(container))
    if unknown:
        found.append(
            f"--bridge {unknown[0]}=...: {plan.container} has no interface on {unknown[0]}"
        )
    kinds = {entry["type"] for entry in _namespaces(container)}
    if "pid" not in kinds:
        found.append(
            "it shares this host's pid namespace, so its pids may be taken there: give it one of "
            "its own"
        )
    if "network" not in kinds:
        found.append(
            "it shares this host's network namespace, which cannot move: give it one of its own"
        )
    if container.spec.process.terminal and plan.console_socket is None:
        found.append(
            "its terminal leads to a process of this host, and nobody there would have it: give "
            "--console-socket PATH, a unix socket there at which somebody listens"
        )
    if plan.console_socket is not None and not container.spec.process.terminal:
        found.append("--console-socket: it has no terminal (process.terminal is not true)")
    found += immovable.objections(container.spec, container.processes())
    if plan.rootfs_mode == "sync" and not shutil.which("rsync"):
        found.append("rsync is not installed here: install it, or use --rootfs shared")
    return found + list(_traced(container))


def _traced(container: Container) -> Iterator[str]:
    """Neither CRIU nor the tracker can stop what a debugger holds."""
    for pid in container.processes():
        with suppress(FileNotFoundError, ProcessLookupError):
            if tracer := max(map(tracer_of, tasks_of(pid)), default=0):
                yield f"process {pid} is traced by process {tracer}, which has to let go first"


def can_fill_lazily(criu_option: str | None, *, user_namespace: bool) -> bool:
    """Whether a restore here may leave pages to a server: CRIU's and the kernel's word."""
    if user_namespace and machine() is None:  # see runtime.memory.heirs
        return False
    try:
        with Criu.start(find_criu(criu_option)) as criu:
            return criu.features().lazy_pages
    except CriuError:
        return False


def check(needs: Preflight, root: Path, criu_option: str | None) -> list[str]:
    """Every reason why this host cannot take the container; empty when it can."""
    check_id(needs.container)
    return [
        reason
        for look in (
            _id,
            _machine,
            _criu,
            _cgroups,
            _bridges_here,
            _namespaces_here,
            _mounts_here,
            _profiles_here,
            _console_here,
            _bundle,
            _writable,
            _space,
            _tools,
        )
        for reason in look(needs, root, criu_option)
    ]


def rootfs_there(plan: Plan, container: Container) -> Path:
    """Where the rootfs lies at the destination: moved along with the bundle when it lies in it."""
    state = container.state
    if plan.bundle is not None and state.rootfs.is_relative_to(state.bundle):
        return plan.bundle / state.rootfs.relative_to(state.bundle)
    return state.rootfs


def _namespaces(container: Container) -> list[dict[str, str]]:
    return list(container.state.spec.get("linux", {}).get("namespaces", []))


def _bridges(container: Container) -> set[str]:
    return {network["bridge"] for network in container.state.networks if network.get("bridge")}


def _mount_sources(container: Container) -> Iterator[str]:
    for mount in container.state.spec.get("mounts", []):
        if {"bind", "rbind"} & set(mount.get("options", [])) or mount.get("type") == "bind":
            yield str(container.state.bundle / mount["source"])


def _cpuinfo(criu: Criu) -> str:
    with tempfile.TemporaryDirectory(prefix="migrator-") as directory:
        criu.cpuinfo_dump(Path(directory))
        return base64.b64encode((Path(directory) / "cpuinfo.img").read_bytes()).decode()


def _id(needs: Preflight, root: Path, _: str | None) -> Iterator[str]:
    if (root / needs.container / "state.json").exists():
        yield f"a container {needs.container} exists there: delete or rename it"
    if (entries := journal.peek(root, needs.container, journal.SOURCE)) and entries[
        -1
    ].step != "moved":
        yield (
            f"a migration of {needs.container} away from there is unfinished: run migrator "
            f"resolve {needs.container} there"
        )


def _machine(needs: Preflight, root: Path, _: str | None) -> Iterator[str]:
    if needs.machine != os.uname().machine:
        yield f"its processor is {os.uname().machine}, not {needs.machine}"


def _criu(needs: Preflight, root: Path, option: str | None) -> Iterator[str]:
    try:
        with Criu.start(find_criu(option)) as criu:
            criu.require()
            if criu.version() < Version(*needs.criu_version):
                wanted = Version(*needs.criu_version)
                yield (
                    f"its criu is {criu.version()}, older than the source's {wanted}, whose "
                    "images it may not read: update it"
                )
            if reason := _processor(criu, needs.cpuinfo):
                yield reason
    except CriuTooOld as error:
        yield f"{error}: update it there"
    except CriuError as error:
        yield str(error)


def _processor(criu: Criu, cpuinfo: str) -> str | None:
    with tempfile.TemporaryDirectory(prefix="migrator-") as directory:
        (Path(directory) / "cpuinfo.img").write_bytes(base64.b64decode(cpuinfo))
        try:
            criu.cpuinfo_check(Path(directory))
        except CriuRequestFailed as error:
            return (
                "its processor lacks what the source's has "
                f"({error.cause or error.cr_errmsg or 'cpuinfo check failed'})"
            )
    return None


def _cgroups(needs: Preflight, root: Path, _: str | None) -> Iterator[str]:
    if (here := cgroup_version()) != needs.cgroup_version:
        yield f"it has cgroup {here}, the source {needs.cgroup_version}: boot both with the same"
    if needs.systemd and not _SYSTEMD.is_dir():
        why = "give --no-systemd-cgroup before migrate"
        yield f"it does not run systemd, which is to make the cgroup as here: {why}"


def _bridges_here(needs: Preflight, root: Path, _: str | None) -> Iterator[str]:
    for bridge in needs.bridges:
        if not bridge_exists(bridge):
            yield (
                f"bridge {bridge} is not there: create it, or map one that is with --bridge OLD=NEW"
            )


def _namespaces_here(needs: Preflight, root: Path, _: str | None) -> Iterator[str]:
    for path in needs.namespaces:
        if not Path(path).exists():
            yield f"namespace {path} is not there: create it at the same path"


def _mounts_here(needs: Preflight, root: Path, _: str | None) -> Iterator[str]:
    for path in needs.mount_sources:
        if not Path(path).exists():
            yield f"{path}, which is bind-mounted into it, is not there: provide the same content"


def _profiles_here(needs: Preflight, root: Path, _: str | None) -> Iterator[str]:
    yield from filter(None, map(lsm.obstacle, needs.profiles))


def _console_here(needs: Preflight, root: Path, _: str | None) -> Iterator[str]:
    if needs.console_socket and not Path(needs.console_socket).is_socket():
        yield no_console(needs.console_socket, "it is not there, or is no socket")


def no_console(path: str, why: str) -> str:
    """The reason for which nobody would take its terminal."""
    return (
        f"console socket {path}: {why}: start who is to have its terminal there, or name another "
        "with --console-socket"
    )


def _bundle(needs: Preflight, root: Path, _: str | None) -> Iterator[str]:
    bundle = Path(needs.bundle)
    if needs.rootfs_mode == "shared":
        if not Path(needs.rootfs).is_dir():
            yield (
                f"rootfs {needs.rootfs} is not there: mount the shared storage, or use --rootfs "
                "sync"
            )
    elif not Path(needs.rootfs).is_relative_to(bundle) or bundle == Path("/"):
        yield (
            f"its rootfs {needs.rootfs} lies outside of its bundle, so what is there may be "
            "another's: put it into the bundle, or use --rootfs shared"
        )
    elif (
        bundle.exists() and any(bundle.iterdir()) and not came_by_migration(bundle, needs.container)
    ):
        yield (
            f"{bundle} exists there and is not {needs.container}'s: remove it, or give --bundle "
            "PATH"
        )


def _writable(needs: Preflight, root: Path, _: str | None) -> Iterator[str]:
    where = [(root, "")]
    if needs.rootfs_mode == "sync":
        where.append((Path(needs.bundle), ", or give --bundle PATH"))
    for path, otherwise in where:
        if not os.access(there := _innermost_there(path), os.W_OK):
            yield f"{there} cannot be written to: mount it writable{otherwise}"


def _innermost_there(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def _space(needs: Preflight, root: Path, _: str | None) -> Iterator[str]:
    home = _innermost_there(Path(needs.bundle))
    free, wanted = shutil.disk_usage(home).free, needs.rootfs_bytes + SPARE_BYTES
    if needs.rootfs_mode == "sync" and free < wanted and not Path(needs.rootfs).exists():
        yield (
            f"{home} has {_mib(free)} MiB free, the rootfs takes {_mib(wanted)}: make room, or "
            "give --bundle PATH"
        )
    if place_for(needs.memory_bytes) is None:
        yield (
            f"neither memory nor /var/tmp has room for {_mib(needs.memory_bytes)} MiB of images: "
            "make room"
        )


def _tools(needs: Preflight, root: Path, criu: str | None) -> Iterator[str]:
    if needs.rootfs_mode == "sync" and not shutil.which("rsync"):
        yield "rsync is not installed there: install it, or use --rootfs shared"
    try:
        lock = network_lock(find_criu(criu))
    except CriuNotFound:
        return  # _criu has said so
    if lock is NetworkLock.SKIP:
        yield (
            "neither iptables-restore nor nftables is there: criu cannot lock the network without "
            "one; install iptables"
        )


def _mib(size: int) -> int:
    return -(-size // (1 << 20))


MARKER = ".migrator"


def came_by_migration(bundle: Path, container: str) -> bool:
    """Whether a migration of *container* put this bundle here or took the container from it."""
    try:
        return (bundle / MARKER).read_text().strip() == container
    except OSError:
        return False


def mark(bundle: Path, container: str) -> None:
    """Make this bundle one that a later migration of *container* may bring up to date."""
    fd = os.open(
        bundle / MARKER, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    with os.fdopen(fd, "w") as file:
        file.write(f"{container}\n")
