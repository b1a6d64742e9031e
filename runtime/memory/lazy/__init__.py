"""Memory that is brought after its process: our own server of CRIU's lazy-pages protocol.

The owner starts it (launch) with a source of pages: a page store, image directories (images), or a
source host (remote_pages, page_protocol). Two processes serve (twin), from shared memory (state)
that outlives either.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.memory.lazy.images import LazyImages, read_images
    from runtime.memory.lazy.launch import LazyPages, LazyPagesFailed, Progress
    from runtime.memory.lazy.page_protocol import serve_pages

__all__ = [
    "LazyImages",
    "LazyPages",
    "LazyPagesFailed",
    "Progress",
    "read_images",
    "serve_pages",
]

_HOME = {
    "LazyImages": "images",
    "LazyPages": "launch",
    "LazyPagesFailed": "launch",
    "Progress": "launch",
    "read_images": "images",
    "serve_pages": "page_protocol",
}


def __getattr__(name: str) -> "Any":
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - lazy: not for the server itself

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
