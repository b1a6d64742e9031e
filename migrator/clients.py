"""Containers that another program keeps, which would misunderstand a migration.

To Podman, CRI-O or containerd a container that leaves has ended: by its restart policy it is
started anew, beside the one that has moved; and at the destination nobody keeps it.
"""

from __future__ import annotations

from migrator.errors import UsageProblem
from runtime import State

_PODMAN = (
    "move it with `podman container checkpoint --export FILE` here and `podman container restore "
    "--import FILE` there"
)
_OWN = "what is to move is started with `migrator run`"
#: the annotation's values
_MANAGERS = {"libpod": ("Podman", _PODMAN), "cri-o": ("CRI-O", _OWN)}
_MANAGER = "io.container.manager"


def ensure_nobodys(state: State) -> None:
    """Raise UsageProblem, with the way that there is, for a container that somebody else keeps."""
    if found := _keeper(state):
        name, remedy = found
        why = "would take its leaving for its end and might start it anew"
        raise UsageProblem(f"{state.id} is kept by {name}, which {why}: {remedy}")


def _keeper(state: State) -> tuple[str, str] | None:
    if manager := _MANAGERS.get(state.annotations.get(_MANAGER, "")):
        return manager
    if any(part.startswith("io.containerd.runtime.") for part in state.bundle.parts):
        return ("Docker" if state.bundle.parent.name == "moby" else "containerd"), _OWN
    return None
