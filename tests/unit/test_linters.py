"""The linters are tests: what they say is what fails."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSIDE = ("tools/vm.d/init", "tools/vm.d/run")
PACKAGES = ("criu_rpc", "runtime", "migrator", "scenarios")


def passes(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if ": note: " not in line]
        pytest.fail("\n".join([" ".join(argv), *said]), pytrace=False)


def test_ruff_finds_nothing() -> None:
    passes(sys.executable, "-m", "ruff", "check", "--quiet")


def test_the_code_is_as_ruff_formats_it() -> None:
    passes(sys.executable, "-m", "ruff", "format", "--check", "--quiet")


def test_mypy_finds_nothing() -> None:
    present = [flag for name in PACKAGES if (ROOT / name).is_dir() for flag in ("-p", name)]
    passes(sys.executable, "-m", "mypy", *present)


@pytest.mark.needs_shellcheck
def test_shellcheck_finds_nothing() -> None:
    passes("shellcheck", "--external-sources", "tools/setup", "tools/vm", *INSIDE, ".ci/run")
