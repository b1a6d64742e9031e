"""What a test may need of the machine: one probe a need, each answering None or why it is not met.

A marker `needs_NAME` stands for each. Only the needs in MAY_LACK may be missing where CI runs:
those that set-up cannot provide, because the kernel or the machine has no such thing.
"""

import ctypes
import mmap
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from runtime.lsm import has_apparmor, has_selinux
from runtime.memory.userfaultfd import is_for_everybody
from runtime.seccomp.library import LibraryMissing, load

MAY_LACK = frozenset(
    {
        "apparmor",
        "cap_sys_resource",
        "cgroup_v1",
        "cgroup_v2",
        "cgroup_v2_tree",
        "containerd",
        "docker",
        "no_apparmor",
        "no_selinux",
        "ordinary_user",
        "uidmap",
        "podman",
        "runc",
        "shellcheck",
        "soft_dirty",
        "systemd",
        "userfaultfd",
    }
)

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
PRIVATE = Path(__file__).parents[1] / ".venv/opt"
CAP_SYS_RESOURCE = 24
USERFAULTFD = {"x86_64": 323, "aarch64": 282}
SOFT_DIRTY_BIT = 55

Probe = Callable[[], str | None]
PROBES: dict[str, Probe] = {}


def probe(function: Probe) -> Probe:
    """Make *function* the probe of the need it is named after; it is asked once a session."""
    PROBES[function.__name__] = cached = cache(function)
    return cached


def program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")


def without(*names: str) -> str | None:
    missing = [name for name in names if not program(name)]
    return f"no {', '.join(missing)} on this machine" if missing else None


def failure(*argv: str | Path) -> str | None:
    """None if the command succeeds, else what it said last."""
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:{SBIN}"}
    done = subprocess.run(
        argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return None
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return f"{Path(argv[0]).name}: {said[-1] if said else f'status {done.returncode}'}"


def in_fresh_netns(*argv: str) -> str | None:
    """None if the command succeeds in a network namespace of its own, else why not."""
    return root() or without(argv[0]) or failure("unshare", "--net", *argv)


@probe
def root() -> str | None:
    return None if os.geteuid() == 0 else "not run as root"


@probe
def ordinary_user() -> str | None:
    """One who may run what lies here, which may be below somebody's home directory."""
    try:
        command = [Path(__file__).parents[1] / ".venv/bin/migrator", "--version"]
        subprocess.run(command, user=65534, group=65534, extra_groups=[], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as exc:
        return f"nobody (65534) cannot run migrator: {exc}"
    return None


@probe
def uidmap() -> str | None:
    if not Path("/etc/subuid").exists() or not Path("/etc/subgid").exists():
        return "no /etc/subuid and /etc/subgid on this machine"
    return without("newuidmap", "newgidmap", "setpriv", "unshare")


@probe
def criu() -> str | None:
    private = PRIVATE / "criu/bin/criu"
    path = os.environ.get("MIGRATOR_CRIU") or (private if private.exists() else program("criu"))
    if not path:
        return "no criu on this machine"
    if find_spec("pycriu") is None:
        return "no pycriu in this environment"
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"^Version: (\d+)\.(\d+)", said, re.M)
    if not version or (int(version[1]), int(version[2])) < (4, 1):
        return f"{path} is older than 4.1 or does not run"
    return root() or failure(path, "check")


@probe
def cgroup_v1() -> str | None:
    mounts = Path("/proc/self/mountinfo").read_text()
    freezer = re.search(r" - cgroup \S+ \S*\bfreezer\b", mounts)
    return None if freezer else "no cgroup v1 freezer is mounted"


@probe
def cgroup_v2_tree() -> str | None:
    mounts = Path("/proc/self/mountinfo").read_text()
    return None if " - cgroup2 " in mounts else "no cgroup v2 tree is mounted"


@probe
def cgroup_v2() -> str | None:
    mount = re.search(
        r"^\S+ \S+ \S+ / (\S+) .* - cgroup2 ", Path("/proc/self/mountinfo").read_text(), re.M
    )
    if not mount:
        return "no cgroup v2 tree is mounted"
    controllers = Path(mount[1], "cgroup.controllers").read_text().split()
    return (
        None if "memory" in controllers else f"the cgroup v2 tree at {mount[1]} has no controllers"
    )


@probe
def systemd() -> str | None:
    booted = Path("/run/systemd/system").is_dir()  # sd_booted(3)
    return None if booted else "this machine does not run systemd"


@probe
def time_namespace() -> str | None:
    return None if os.path.exists("/proc/self/ns/time") else "no time namespaces in this kernel"


@probe
def cap_sys_resource() -> str | None:
    status = Path("/proc/self/status").read_text()
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.M)
    assert effective
    held = int(effective[1], 16) >> CAP_SYS_RESOURCE & 1
    return None if held else "root has no CAP_SYS_RESOURCE here"


@probe
def apparmor() -> str | None:
    return without("apparmor_parser") if has_apparmor() else "no AppArmor in this kernel"


@probe
def no_apparmor() -> str | None:
    return "this host has AppArmor" if has_apparmor() else None


@probe
def no_selinux() -> str | None:
    return "this host has SELinux" if has_selinux() else None


@probe
def restricted_userfaultfd() -> str | None:
    if is_for_everybody():
        return "vm.unprivileged_userfaultfd is 1: here user namespaces are no different"
    return None


@probe
def userfaultfd() -> str | None:
    number = USERFAULTFD.get(platform.machine())
    if number is None:
        return f"userfaultfd's number on {platform.machine()} is not known"
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, os.O_CLOEXEC)
    if fd < 0:
        return f"userfaultfd: {os.strerror(ctypes.get_errno())}"
    os.close(fd)
    return None


@probe
def soft_dirty() -> str | None:
    """Write to a page after clearing: the kernel tracks when its bit then comes up."""
    page = mmap.mmap(-1, mmap.PAGESIZE)
    try:
        page[0] = 1
        Path("/proc/self/clear_refs").write_text("4")
        page[0] = 2
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(address // mmap.PAGESIZE * 8)
            entry = int.from_bytes(pagemap.read(8), "little")
    except OSError as exc:
        return f"soft-dirty: {exc}"
    return None if entry >> SOFT_DIRTY_BIT & 1 else "this kernel does not track soft-dirty pages"


@probe
def veth() -> str | None:
    return in_fresh_netns("ip", "link", "add", "probe0", "type", "veth", "peer", "probe1")


@probe
def bridge() -> str | None:
    return in_fresh_netns("ip", "link", "add", "probe0", "type", "bridge")


@probe
def shaping() -> str | None:
    rate = ("rate", "1gbit", "burst", "1mb", "latency", "10ms")
    return in_fresh_netns("tc", "qdisc", "add", "dev", "lo", "root", "tbf", *rate)


@probe
def nftables() -> str | None:
    return in_fresh_netns("nft", "add", "table", "inet", "probe")


@probe
def iptables() -> str | None:
    return without("iptables-restore") or in_fresh_netns("iptables", "--new-chain", "probe")


@probe
def busybox() -> str | None:
    path = program("busybox")
    if not path:
        return "no busybox on this machine"
    # A dynamic program names its loader; the static one runs in an empty rootfs.
    with open(path, "rb") as file:
        head = file.read(4096)
    return "busybox is not the static one" if b"ld-linux" in head or b"ld-musl" in head else None


@probe
def redis() -> str | None:
    return (
        None
        if (PRIVATE / "redis/bin/redis-server").exists()
        else without("redis-server", "redis-cli")
    )


@probe
def sshd() -> str | None:
    return without("sshd", "ssh", "ssh-keygen")


@probe
def rsync() -> str | None:
    return without("rsync")


@probe
def runc() -> str | None:
    return without("runc")


@probe
def podman() -> str | None:
    return root() or without("podman", "conmon")


@probe
def containerd() -> str | None:
    return root() or without("containerd", "ctr", "containerd-shim-runc-v2")


@probe
def docker() -> str | None:
    return root() or without("dockerd", "docker", "containerd")


@probe
def libseccomp() -> str | None:
    try:
        load()
    except LibraryMissing as missing:
        return str(missing)
    return None


@probe
def shellcheck() -> str | None:
    return without("shellcheck")
