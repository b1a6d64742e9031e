"""The memory of running processes: which pages are there, which were written, where they are kept.

Names are loaded when they are first used, as in the package above.
"""

# What a lazy-pages server is waiting for is not imported here: typing, importlib, logging.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.memory.errors import TrackingFailed, TrackingUnavailable
    from runtime.memory.maps import Mapping
    from runtime.memory.pagemap import Pagemap
    from runtime.memory.runs import Run
    from runtime.memory.spaces import Space
    from runtime.memory.tracker import Scan, Tracker

__all__ = [
    "Mapping",
    "Pagemap",
    "Run",
    "Scan",
    "Space",
    "Tracker",
    "TrackingFailed",
    "TrackingUnavailable",
]

_HOME = {
    "Mapping": "maps",
    "Pagemap": "pagemap",
    "Run": "runs",
    "Scan": "tracker",
    "Space": "spaces",
    "Tracker": "tracker",
    "TrackingFailed": "errors",
    "TrackingUnavailable": "errors",
}


def __getattr__(name: str) -> "Any":
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - lazy: as above

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
