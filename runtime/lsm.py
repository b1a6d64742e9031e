"""Whether the host has the security module that a label is for, and the profile that it names.

A label that nothing enforces would be a promise that is not kept: it is refused by name, as runc
does. What a process does with its label is in runtime/process/labels.py. apparmor(7), selinux(8),
apparmor_parser(8).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import Fault, UnsupportedField

if TYPE_CHECKING:
    from runtime.process.plan import LabelPlan
    from runtime.spec.model import Linux, Process

UNCONFINED = "unconfined"
#: between the names of profiles that all hold
_STACKED = "//&"

_APPARMOR = Path("/sys/kernel/security/apparmor")
_LOADED = _APPARMOR / "profiles"
_APPARMOR_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_SELINUX = (Path("/sys/fs/selinux/enforce"), Path("/selinux/enforce"))


def has_apparmor() -> bool:
    """Whether AppArmor is there and switched on."""
    try:
        return _APPARMOR.is_dir() and _APPARMOR_ENABLED.read_text().startswith("Y")
    except OSError:
        return False


def has_selinux() -> bool:
    """Whether SELinux is there and switched on."""
    return any(path.exists() for path in _SELINUX)


def profile_of(pid: int) -> str:
    """The AppArmor profile that a process is under; "" for none."""
    try:
        label = Path(f"/proc/{pid}/attr/apparmor/current").read_text()
    except OSError:  # it has ended, or there is no AppArmor
        return ""
    return _name(label)


def obstacle(profile: str) -> str | None:
    """Why nothing can be restored under the AppArmor *profile* on this host; None where it can.

    CRIU gives processes their profiles when the network is unlocked and they are about to run,
    and kills them when it cannot: too late for what has left another host.
    """
    if profile in ("", UNCONFINED):
        return None
    if not has_apparmor():
        return f"AppArmor is not enabled, which enforces its profile {profile}"
    try:
        loaded = set(map(_name, _LOADED.read_text().splitlines()))
    except OSError:  # only root may know
        return None
    # those of a namespace of AppArmor's own (":ns:name") are listed in that alone
    parts = [part for part in profile.split(_STACKED) if not part.startswith(":")]
    missing = [part for part in parts if part not in (UNCONFINED, *loaded)]
    return f"AppArmor profile {missing[0]} is not loaded: load it first" if missing else None


def _name(label: str) -> str:
    """Of `name (mode)`; what is not confined has no mode."""
    return label.strip().rpartition(" (")[0]


def plan(process: Process, linux: Linux, path: Path, *, keyring: str) -> LabelPlan:
    """What init has to say of the labels of *process*.

    path: the config.json they stand in; keyring: the name of its session keyring, "" for the
    caller's. Raises UnsupportedField for a label that this host does nothing with.
    """
    if faults := list(_faults(process, linux)):
        raise UnsupportedField(path, faults)
    return _plan(process, linux, keyring)


def plan_of_restored(process: Process, linux: Linux, *, keyring: str) -> LabelPlan:
    """The same for what is restored: CRIU gives it its labels, or fails."""
    return _plan(process, linux, keyring)


def _plan(process: Process, linux: Linux, keyring: str) -> LabelPlan:
    return {
        "apparmor": process.apparmor_profile if has_apparmor() else "",
        "selinux": process.selinux_label if has_selinux() else "",
        "keyring": keyring,
        "shared_keyring": linux.user_namespace,
    }


def _faults(process: Process, linux: Linux) -> Iterator[Fault]:
    if process.apparmor_profile not in ("", UNCONFINED) and not has_apparmor():
        yield Fault("process.apparmorProfile", "AppArmor is not enabled on this host")
    if process.selinux_label and not has_selinux():
        yield Fault("process.selinuxLabel", "SELinux is not enabled on this host")
    if linux.mount_label and not has_selinux():
        yield Fault("linux.mountLabel", "SELinux is not enabled on this host")
