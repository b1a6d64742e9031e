"""The configuration file that CRIU reads last, and heeds most. criu(8) "CONFIGURATION FILES"."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

#: annotation that names it; "" for none
CONFIG_ANNOTATION = "org.criu.config"
DEFAULT_CONFIG = "/etc/criu/runc.conf"


def criu_config(annotations: Mapping[str, str]) -> Path | None:
    """The file for a container with *annotations*; CRIU ignores a missing one."""
    name = annotations.get(CONFIG_ANNOTATION, DEFAULT_CONFIG)
    return Path(name) if name else None
