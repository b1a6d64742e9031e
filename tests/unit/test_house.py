"""The tests' own house: what a skip counts for, and whose leftovers are swept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leftovers
from tests.bundles import merged, spec
from tests.probes import PROBES

SKIPS = """
import pytest

def test_plain_skip():
    pytest.skip("not today")

@pytest.mark.skipif(True, reason="not ever")
def test_skip_by_mark():
    pass

@pytest.mark.needs_nothing_there
def test_need_that_a_machine_may_lack():
    pass

@pytest.mark.needs_set_up
def test_need_that_set_up_provides():
    pass
"""
PROBING = """
from tests import probes

probes.PROBES["nothing_there"] = lambda: "no such thing here"
probes.PROBES["set_up"] = lambda: "set-up forgot it"
probes.MAY_LACK |= {"nothing_there"}
"""


def outcome(path: Path, *options: str, strict: bool) -> str:
    (path / "probing.py").write_text(PROBING)
    (path / "test_skips.py").write_text(SKIPS)
    (path / "pytest.ini").write_text("[pytest]\naddopts = -p probing -p tests.plugin -q\n")
    environment = {**os.environ, "PYTHONPATH": str(path), "CI_STRICT": "1" if strict else ""}
    argv = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, path)
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False).stdout


def test_skips_are_skips_at_home(tmp_path: Path) -> None:
    assert "4 skipped" in outcome(tmp_path, strict=False)


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "in workers"])
def test_ci_fails_a_skip_that_no_probe_justifies(tmp_path: Path, options: tuple[str, ...]) -> None:
    said = outcome(tmp_path, *options, strict=True)
    assert "1 failed, 1 skipped, 2 errors" in said
    assert "no probe justifies this skip: Skipped: not today" in said
    assert "CI must provide set_up: set-up forgot it" in said


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_answers_in_one_line(name: str) -> None:
    why = PROBES[name]()
    assert why is None or (why and "\n" not in why)


def test_a_session_sweeps_its_own_and_what_the_dead_left() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    assert leftovers.mine(leftovers.own("x"))
    assert not leftovers.orphaned(leftovers.own("x"))
    assert leftovers.orphaned(f"/run/netns/mig-test-{dead.pid:x}-x")
    assert not leftovers.mine("migrator")
    assert not leftovers.orphaned("migrator")


def test_merging_into_a_spec_leaves_the_rest_of_it() -> None:
    changed = merged(spec("true"), {"process": {"cwd": "/tmp"}})
    assert changed["process"]["cwd"] == "/tmp"
    assert changed["process"]["args"] == ["true"]
