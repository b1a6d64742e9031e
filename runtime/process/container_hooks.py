"""Hooks that run inside the container's namespaces: createContainer, startContainer.

Apart from init, because few containers have any and runtime.hooks imports what they alone need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime import hooks
from runtime.errors import HookFailed
from runtime.spec_model import Hook

if TYPE_CHECKING:
    from runtime.process.plan import HookPlan


def run(name: str, plans: list[HookPlan], state: dict[str, Any]) -> None:
    """Run the hooks called *name*; a failure is an OSError that names the hook's path."""
    try:
        hooks.run(name, [Hook._make(plan) for plan in plans], state)
    except HookFailed as exc:
        raise OSError(0, exc.why, str(exc.path)) from exc
