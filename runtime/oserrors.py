"""From the kernel's refusal to an error for a caller: wrapped once, at the verb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import SetupFailed


@contextmanager
def failing(step: str) -> Iterator[None]:
    """Raise SetupFailed for *step* where a system call fails."""
    try:
        yield
    except OSError as exc:
        raise SetupFailed(step, reason(exc)) from exc


def reason(exc: OSError) -> str:
    """The path, where there is one, and what is wrong with it."""
    return sentence(exc.filename, exc.strerror or str(exc))


def sentence(path: object, why: str) -> str:
    """`path: why`, in lower case as all our messages; Docker reads them so too."""
    why = why[:1].lower() + why[1:]
    return f"{path}: {why}" if path else why
