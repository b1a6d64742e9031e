"""The points of a container's life where the runtime runs hooks in its own namespaces.

OCI runtime-spec runtime.md "Lifecycle". Apart from runtime/hooks.py, whose imports cost 20 ms: most
containers have no hooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.spec_model import Hook


def run(name: str, hooks: Sequence[Hook], state: Mapping[str, Any]) -> None:
    """Run *hooks*; HookFailed at the first that fails."""
    if hooks:
        from runtime import hooks as programs  # noqa: PLC0415 - lazy: 20 ms

        programs.run(name, hooks, state)


def run_all(name: str, hooks: Sequence[Hook], state: Mapping[str, Any]) -> None:
    """Run *hooks*; one that fails is logged, and the others run all the same."""
    if hooks:
        from runtime import hooks as programs  # noqa: PLC0415 - lazy: 20 ms

        programs.run_all(name, hooks, state)
