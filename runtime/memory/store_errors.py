"""Errors of the page store, below ContainerError.

StoreError          a page store of one directory
├── StoreFull       no room in its limits or on its filesystem
├── StoreBusy       another process writes to it
├── CorruptStore    its files are not what a store has left
└── MissingPages    pages asked for were never put there
"""

from __future__ import annotations

from pathlib import Path

from runtime.errors import ContainerError
from runtime.memory.runs import Run


class StoreError(ContainerError):
    """Root of the errors of a page store."""


class StoreFull(StoreError):
    """Nothing was changed by the call that failed, apart from whole leaves before it."""

    def __init__(self, directory: Path, why: str) -> None:
        super().__init__(
            f"page store {directory} is full: {why}; "
            "free memory on the destination, or keep the store on a larger disk"
        )
        self.directory = directory


class StoreBusy(StoreError):
    """A store has one writer at a time."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"page store {directory} is being written by another process; end that migration first"
        )
        self.directory = directory


class CorruptStore(StoreError):
    """Cut short, of another version, or of a host with other pages."""

    def __init__(self, directory: Path, why: str) -> None:
        super().__init__(f"page store {directory} cannot be used: {why}; remove it")
        self.directory = directory


class _Pages(StoreError):
    def __init__(self, space: int, runs: list[Run], what: str) -> None:
        pages = sum(end - start for start, end in runs)
        first = f"{runs[0][0]:#x}-{runs[0][1]:#x}" if runs else "nowhere"
        super().__init__(
            f"{pages >> 10} KiB of address space {space} {what} in {len(runs)} places, "
            f"first {first}; send them again"
        )
        self.space = space
        self.runs = runs


class MissingPages(_Pages):
    """`runs` of `space` are not in the table."""

    def __init__(self, space: int, runs: list[Run]) -> None:
        super().__init__(space, runs, "are missing")
