"""`migrator create`: a container whose process waits for `migrator start`."""

from __future__ import annotations

from typing import Any

from migrator.commands._common import creates_container
from migrator.commands._verb import verb
from runtime.container import Container


@verb()
@creates_container
def command(**request: Any) -> None:
    """Create CONTAINER from a bundle, without starting its process."""
    Container.create(**request)
