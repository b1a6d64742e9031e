"""Containers of who is not root of the host: an ordinary user, or root of a user namespace.

What such a caller may not do is left out where runc leaves it out: the cgroups. Everything else is
made as root makes it, in the container's user namespace. user_namespaces(7).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from criu_rpc.logger import Logger
from runtime.cgroups import CgroupManager, manager, of_state
from runtime.cgroups.detect import UNIFIED
from runtime.cgroups.tree import OUR_PARENT, PROCESSES
from runtime.errors import CgroupError, SetupFailed
from runtime.oserrors import sentence

if TYPE_CHECKING:
    from runtime.spec.model import Spec
    from runtime.state import State

logger = Logger(__name__)


def check(spec: Spec) -> None:
    """Raise SetupFailed where an ordinary user cannot make the container of *spec*."""
    if os.geteuid() and not spec.linux.user_namespace:
        remedy = "`migrator spec --rootless` writes a config.json with one"
        why = f"rootless container requires user namespaces: {remedy}"
        raise SetupFailed("creating a container", why)


def cgroups_for(spec: Spec, state: State, *, rootless: bool) -> tuple[State, CgroupManager]:
    """Make the cgroups of *state*, or do without them where it is *rootless* and none is asked for.

    Returns the state with those that there are. Raises CgroupError; nothing is then left.
    """
    if state.systemd_cgroup or not rootless:
        cgroup = of_state(state)
        cgroup.create()
        return state, cgroup
    # that of hybrid hosts is joined where it can be, and never driven
    paths = {name: path for name, path in state.cgroup_paths.items() if name != UNIFIED}
    for wanted in (paths, *_delegated(spec, state, paths)):
        try:
            return state._replace(cgroup_paths=wanted), _made(wanted)
        except CgroupError as exc:
            cause = exc.__cause__
            if not isinstance(cause, PermissionError):
                raise
            if spec.linux.cgroups_path:
                denied = sentence("", cause.strerror or str(cause))
                why = f"unable to apply cgroup configuration: {denied}"
                raise CgroupError(exc.path, why) from cause
    return _without(spec, state)


def _without(spec: Spec, state: State) -> tuple[State, CgroupManager]:
    """A container that stays in the cgroups of who makes it."""
    if not spec.linux.owns("pid"):
        logger.warning(
            "container %s has neither a cgroup nor a pid namespace of its own. Such configuration "
            "is strongly discouraged: not all of its processes can be ended",
            state.id,
        )
    cgroup = manager("", paths={})
    cgroup.set(_limits(spec.linux.resources))
    return state._replace(cgroup_paths={}), cgroup


def _delegated(spec: Spec, state: State, paths: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Where none is asked for, on v2: beside our own cgroup, should that be the user's to manage.

    Not in it: with processes of its own it cannot hand controllers on (cgroups(7)).
    """
    if "" not in paths or spec.linux.cgroups_path:
        return
    from runtime.cgroups.sub import v2_of  # noqa: PLC0415 - lazy: for whoever is refused

    own = v2_of(os.getpid())
    if own is not None and os.access(own.parent / PROCESSES, os.W_OK):
        yield {"": str(own.parent / f"{OUR_PARENT}-{state.id}")}


def _made(paths: Mapping[str, str]) -> CgroupManager:
    cgroup = manager("", paths=paths)
    _check_owner(cgroup)
    cgroup.create()
    return cgroup


def _check_owner(cgroup: CgroupManager) -> None:
    """What is there may be another's, who has a container of this name."""
    for directory in cgroup.directories:
        if directory.exists() and not os.access(directory, os.W_OK):
            cause = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            raise CgroupError(directory, f"cannot be used: {cause.strerror}") from cause


def _limits(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Device rules are none: nothing can be opened by number in a user namespace."""
    return {name: value for name, value in resources.items() if name != "devices"}
