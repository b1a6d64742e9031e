"""What has to be let go of: at the end of a block, or with the last who holds it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """A context manager that closes itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds; without effect the second time."""


class Descriptor:
    """A file descriptor that is closed with the last reference to this.

    What one thread closes may be another file, of the same number, before another thread uses it:
    so whoever uses it refers to it as long.
    """

    def __init__(self, fd: int) -> None:
        """Takes it over."""
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)
