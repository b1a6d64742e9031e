"""Hooks that run inside the container's namespaces: createContainer, startContainer.

Apart from init, because few containers have any and runtime.hooks imports what they alone need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime import hooks
from runtime.errors import HookFailed
from runtime.spec.model import Hook

if TYPE_CHECKING:
    from runtime.process.plan import HookPlan


def run(name: str, plans: list[HookPlan], state: dict[str, Any], *, env: dict[str, str]) -> None:
    """Run the hooks called *name*; env: of one that gives none.

    A failure is an OSError with the hook's index as errno, and its path.
    """
    try:
        hooks.run(name, [Hook._make(plan) for plan in plans], state, env=env)
    except HookFailed as exc:
        raise OSError(exc.index, exc.why, str(exc.path)) from exc
