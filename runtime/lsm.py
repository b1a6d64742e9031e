"""Whether the host has the security module that a label is for (apparmor(7), selinux(8)).

A label that nothing enforces would be a promise that is not kept: it is refused by name, as runc
does. What a process does with its label is in runtime/process/labels.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import Fault, UnsupportedField

if TYPE_CHECKING:
    from runtime.process.plan import LabelPlan
    from runtime.spec_model import Linux, Process

UNCONFINED = "unconfined"

_APPARMOR = Path("/sys/kernel/security/apparmor")
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
        "shared_keyring": linux.namespace("user") is not None,
    }


def _faults(process: Process, linux: Linux) -> Iterator[Fault]:
    if process.apparmor_profile not in ("", UNCONFINED) and not has_apparmor():
        yield Fault("process.apparmorProfile", "AppArmor is not enabled on this host")
    if process.selinux_label and not has_selinux():
        yield Fault("process.selinuxLabel", "SELinux is not enabled on this host")
    if linux.mount_label and not has_selinux():
        yield Fault("linux.mountLabel", "SELinux is not enabled on this host")
