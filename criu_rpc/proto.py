"""CRIU's message classes, out of pycriu's generated modules: the only user of pycriu.

The package itself imports every image type of CRIU, 60 ms that no command here has a use for: a
generated module is loaded by its file instead.
"""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from criu_rpc.errors import CriuNotFound


def rpc() -> Any:
    """The messages of a conversation (rpc.proto)."""
    return _generated("rpc_pb2")


def stats() -> Any:
    """The messages of the statistics files (stats.proto)."""
    return _generated("images/stats_pb2")


def pagemap() -> Any:
    """The messages of the memory maps (pagemap.proto)."""
    return _importing("pagemap", "opts")


def mm() -> Any:
    """The messages of an address space (mm.proto)."""
    return _importing("mm", "opts", "vma")


def _importing(name: str, *needed: str) -> ModuleType:
    """An image's module, which imports others by names that only pycriu's own directory has."""
    for each in needed:
        sys.modules.setdefault(f"{each}_pb2", _generated(f"images/{each}_pb2"))
    return _generated(f"images/{name}_pb2")


@cache
def _generated(name: str) -> ModuleType:
    path = _package() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{__package__}._{path.stem}", path)
    if spec is None or spec.loader is None:
        raise CriuNotFound(f"whose Python package has {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _package() -> Path:
    spec = importlib.util.find_spec("pycriu")  # does not import it
    if spec is None or not spec.submodule_search_locations:
        raise CriuNotFound("with its Python package pycriu")
    return Path(spec.submodule_search_locations[0])
