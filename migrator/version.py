"""The version, in one place that costs nothing to import."""

from __future__ import annotations

VERSION = "0.1.0"


def commit() -> str:
    """The git commit that this runs from; "unknown" where it was installed without its history."""
    from pathlib import Path  # noqa: PLC0415 - of this alone

    git = Path(__file__).parents[1] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        return (git / head.removeprefix("ref: ")).read_text().strip()
    except OSError:  # no checkout, or its references are packed
        return "unknown"
