#!/usr/bin/env python3
"""Write the table of the OCI spec's fields into docs/runtime.md, from runtime/spec/fields.py."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from runtime.spec.fields import SPEC
from runtime.spec.schema import Entry, Refused, entries

DOCUMENT = Path(__file__).parents[1] / "docs/runtime.md"
BEGIN = "<!-- fields: written by tools/spec_table.py -->"
END = "<!-- end of fields -->"


def table() -> str:
    """The table in Markdown: fields next to each other that are treated alike share a line."""
    lines = ["| field | what is done with it |", "|---|---|"]
    for (parent, what), group in groupby(entries(SPEC), key=_line):
        names = ", ".join(f"`{entry.path.removeprefix(parent)}`" for entry in group)
        lines.append(f"| {f'`{parent}` ' if parent else ''}{names} | {what} |")
    return "\n".join(lines)


def _line(entry: Entry) -> tuple[str, str]:
    parent = entry.path.rpartition(".")[0]
    return f"{parent}." if parent else "", _treatment(entry)


def _treatment(entry: Entry) -> str:
    if isinstance(entry.kind, Refused):
        return f"refused: {entry.kind.why}"
    return "carried out"


def main() -> None:
    """Replace what stands between the two marks."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")


if __name__ == "__main__":
    main()
