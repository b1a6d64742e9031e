"""A fresh interpreter that runs one module of ours and imports next to nothing else.

What starts quickly, what goes into a container, and what outlives a command runs in one. Isolated
(-I) and without site-packages (-S): neither the caller's environment nor a directory that somebody
else can write to decides what it imports.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGES = str(Path(__file__).parents[1])
_START = "import sys; sys.path.append(sys.argv[1]); from {} import main; main(*sys.argv[2:])"


def interpreter() -> str:
    """The python below the virtual environment: of the same version, so marshal(3) is the same."""
    return str(getattr(sys, "_base_executable", sys.executable))


def command(module: str, *arguments: str) -> list[str]:
    """The command line that calls main(*arguments) of *module*."""
    start = _START.format(module)
    return [interpreter(), "-I", "-S", "-X", "utf8", "-c", start, _PACKAGES, *arguments]
