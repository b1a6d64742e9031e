"""The points of a container's life where the runtime runs hooks in its own namespaces.

OCI runtime-spec runtime.md "Lifecycle". Programs are run by runtime/hooks.py, whose imports cost
20 ms: most containers have no hooks. Who uses the library may add functions of its own, which are
called after the programs, in its own process, and are nowhere written down (libcontainer's Hooks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from criu_rpc.logger import Logger
from runtime.errors import HookFailed

if TYPE_CHECKING:
    from runtime.spec.model import Hook
    from runtime.state import State

logger = Logger(__name__)


class HookName(StrEnum):
    """The kinds of hooks, in the order of a container's life."""

    PRESTART = "prestart"
    CREATE_RUNTIME = "createRuntime"
    CREATE_CONTAINER = "createContainer"
    START_CONTAINER = "startContainer"
    POSTSTART = "poststart"
    POSTSTOP = "poststop"


#: gets the OCI state; what it raises is the hook's failure
InProcessHook = Callable[[Mapping[str, Any]], object]
InProcessHooks = Mapping[HookName, Sequence[InProcessHook]]

_INSIDE = (HookName.CREATE_CONTAINER, HookName.START_CONTAINER)


def check(hooks: InProcessHooks) -> None:
    """Raise ValueError for kinds that no function of this process can be."""
    for name in _INSIDE:
        if hooks.get(name):
            raise ValueError(f"{name} hooks run in the container: give them in config.json")


def programs_of(state: State, name: HookName) -> Sequence[Hook]:
    """The list called *name* in the config.json of a container."""
    if not (state.spec.get("hooks") or {}).get(name):
        return ()
    from runtime.spec.reading import parse  # noqa: PLC0415 - lazy: 10 ms
    from runtime.spec.schema import snake_case  # noqa: PLC0415 - lazy: 5 ms

    hooks = parse(state.spec, state.bundle / "config.json").hooks
    found: Sequence[Hook] = getattr(hooks, snake_case(name))
    return found


def run(
    name: HookName,
    hooks: Sequence[Hook],
    state: Mapping[str, Any],
    own: Sequence[InProcessHook] = (),
) -> None:
    """Run *hooks*, then *own*; HookFailed at the first that fails."""
    for hook in _in_order(name, hooks, state, own):
        hook()


def run_all(
    name: HookName,
    hooks: Sequence[Hook],
    state: Mapping[str, Any],
    own: Sequence[InProcessHook] = (),
) -> None:
    """Run *hooks*, then *own*; one that fails is logged, and the others run all the same."""
    for hook in _in_order(name, hooks, state, own):
        try:
            hook()
        except HookFailed as exc:
            logger.warning("%s", exc)


def _in_order(
    name: HookName, hooks: Sequence[Hook], state: Mapping[str, Any], own: Sequence[InProcessHook]
) -> Iterator[Callable[[], None]]:
    """What runs each of them; HookFailed when that fails."""
    if hooks:
        from runtime.hooks import run_one  # noqa: PLC0415 - lazy: 20 ms

        for index, hook in enumerate(hooks):
            yield partial(run_one, name, index, hook, state)
    for index, function in enumerate(own, len(hooks)):
        yield partial(_call, name, index, function, state)


def _call(name: HookName, index: int, function: InProcessHook, state: Mapping[str, Any]) -> None:
    try:
        function(dict(state))
    except Exception as exc:
        title = getattr(function, "__qualname__", type(function).__qualname__)
        raise HookFailed(name, title, str(exc) or type(exc).__name__, index=index) from exc
