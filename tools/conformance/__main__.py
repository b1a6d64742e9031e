"""Drives the same verbs of migrator, runc and crun, and compares what they answer and do.

    .venv/bin/python tools/conformance [--only REGEX] [--runtime NAME=PATH ...] [--all]
                                       [--output FILE]

A runtime that is not installed is named and left out. Prints a table of cases, then every
difference from migrator; fails on one that tools/conformance/explained.py has no reason for.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parents[2]))

from explained import reason_for
from matrix import ROWS, seen
from rich.console import Console
from rich.table import Table
from runtimes import Runtime, found, fresh, version_of, working
from verbs import CASES, Observed

OURS = "migrator"


class Difference(NamedTuple):
    """One observation that is not migrator's."""

    case: str
    observation: str
    runtime: str
    version: str
    ours: Any
    theirs: Any

    @property
    def why(self) -> str | None:
        """Why that is right."""
        return reason_for(self.case, self.observation, self.version)


def cases(only: str) -> dict[str, Callable[[Runtime], Observed]]:
    """Every case whose name *only* matches: verbs first, then the matrix."""
    rows = {f"sees: {name}": partial(seen, row) for name, row in ROWS.items()}
    return {name: do for name, do in {**CASES, **rows}.items() if re.search(only, name)}


def observed(do: Callable[[Runtime], Observed], runtime: Runtime) -> Observed:
    """What a case sees of *runtime*; one that cannot be finished is seen as that."""
    try:
        return do(runtime)
    except (KeyError, ValueError, IndexError, OSError, subprocess.TimeoutExpired) as exc:
        return {"the case": f"ended with {type(exc).__name__}: {exc}"}


def differences(
    case: str, answers: dict[str, Observed], versions: dict[str, str]
) -> Iterator[Difference]:
    """Where the others are not as migrator is."""
    ours = answers[OURS]
    for runtime, theirs in answers.items():
        for name in dict.fromkeys((*ours, *theirs)):
            pair = ours.get(name, "not seen"), theirs.get(name, "not seen")
            if pair[0] != pair[1]:
                yield Difference(case, name, runtime, versions[runtime], *pair)


def main() -> int:
    """Run the cases; the exit status."""
    options = _options()
    console = Console(width=120)
    paths = found(dict(each.split("=", 1) for each in options.runtime))
    results: dict[str, dict[str, Observed]] = {}
    with TemporaryDirectory(prefix="migrator-conformance-") as directory:
        there = working(paths, Path(directory), partial(console.print, markup=False))
        for case, do in cases(options.only).items():
            results[case] = {}
            console.print(case, end="\r")
            for name, path in there.items():
                with fresh(name, path, Path(directory) / name) as runtime:
                    results[case][name] = observed(do, runtime)
    versions = {name: version_of(path) for name, path in there.items()}
    different = [
        d for case, answers in results.items() for d in differences(case, answers, versions)
    ]
    console.print(_table(results, list(there), different))
    _explain(console, different, everything=options.all)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2))
    return int(any(each.why is None for each in different))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/conformance")
    parser.add_argument("--only", default="", metavar="REGEX")
    parser.add_argument("--runtime", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--all", action="store_true", help="print explained differences too")
    parser.add_argument("--output", type=Path, metavar="FILE", help="every observation, as JSON")
    return parser.parse_args()


def _table(
    results: dict[str, dict[str, Observed]], names: list[str], found: list[Difference]
) -> Table:
    table = Table("case", "observations", *names, header_style="")
    for case, answers in results.items():
        cells = [_cell([d for d in found if (d.case, d.runtime) == (case, n)]) for n in names[1:]]
        table.add_row(case, str(len(answers[OURS])), "", *cells)
    return table


def _cell(different: list[Difference]) -> str:
    if not different:
        return "same"
    unexplained = sum(each.why is None for each in different)
    explained = f"{len(different) - unexplained} explained"
    return f"{unexplained} DIFFER, {explained}" if unexplained else explained


def _explain(console: Console, found: list[Difference], *, everything: bool) -> None:
    for each in found:
        if each.why is None or everything:
            console.print(f"\n{each.case}: {each.observation}: {each.why or 'NOT EXPLAINED'}")
            console.print(f"  {OURS}: {each.ours!r}", markup=False)
            console.print(f"  {each.runtime}: {each.theirs!r}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
