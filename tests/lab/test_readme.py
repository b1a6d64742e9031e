"""What README.md shows is what happens: its commands and its program run as they are printed."""

import re
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT
from textwrap import dedent

import pytest

from migrator.lab import lab
from tests import leftovers
from tests.lab.hosts import TwoHosts, make_bundle, nothing_left_behind

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_busybox,
]

ROOT = Path(__file__).parents[2]
MANUAL = "docs/runtime.md"
ON_PATH = f"export PATH={Path(sys.executable).parent}:$PATH\n"


def block(heading: str, number: int = 0, *, file: str = "README.md") -> str:
    """The indented block of that number below *heading*."""
    text = (ROOT / file).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dedent(re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", text, re.MULTILINE)[number])


def test_a_container_in_five_lines(two_hosts: TwoHosts) -> None:
    script = block("A container in five lines")
    assert len(script.splitlines()) == 5
    with nothing_left_behind(two_hosts.destination):
        said = two_hosts.source.run("sh", "-ec", ON_PATH + script).stdout
    assert said.splitlines()[0] == "I am 1 on migrator"
    assert said.splitlines()[1].split()[:2] == ["ID", "PID"]


@pytest.mark.needs_criu
def test_a_checkpoint_and_a_restore_without_a_second_host(two_hosts: TwoHosts) -> None:
    made = block("A container in five lines")
    moved = block("A migration in one", 1)
    ask = "migrator list --quiet; migrator delete --force box; rm -r /tmp/image\n"
    said = two_hosts.source.run("sh", "-ec", ON_PATH + made + moved + ask).stdout
    assert said.splitlines()[-1] == "box"


@pytest.mark.needs_criu
@pytest.mark.needs_sshd
@pytest.mark.needs_rsync
def test_a_lab_as_its_manual_has_it() -> None:
    name = leftovers.own("manual")
    shown = re.search(r"(?:^    .*\n)+", (ROOT / "docs/lab.md").read_text(), re.MULTILINE)
    assert shown is not None
    script = re.sub(r"migrator lab (\w+)", rf"migrator lab \1 --name {name}", dedent(shown[0]))
    script = script.replace("-- ...", "-- true").replace("lab/default/", f"lab/{name}/")
    done = subprocess.run(["sh", "-ec", ON_PATH + script], stdout=PIPE, stderr=STDOUT, check=False)
    assert done.returncode == 0, done.stdout.decode()
    assert name not in lab.names()


def test_the_library_in_ten_lines(two_hosts: TwoHosts) -> None:
    program = block("The library in ten lines")
    assert len([line for line in program.splitlines() if line]) == 10
    two_hosts.source.run("sh", "-ec", ON_PATH + block("A container in five lines"))
    said = two_hosts.source.run(sys.executable, "-c", program).stdout
    assert said == "I am 1 on migrator\n it ended with 3\n"
    assert "box" not in two_hosts.source.run("ls", "/run/migrator").stdout


def test_a_supervisor_is_told_of_processes(two_hosts: TwoHosts) -> None:
    make_bundle(two_hosts.source, "web")
    program = block("From Python", file=MANUAL)
    said = two_hosts.source.run(sys.executable, "-c", program).stdout
    assert said == "shell ended with 3\n"


@pytest.mark.needs_criu
def test_a_container_goes_through_its_verbs(two_hosts: TwoHosts) -> None:
    assert two_hosts.source.bridge == "br0"
    make_bundle(two_hosts.source, "web", "sh", "-c", "sleep 2; exit 5")
    two_hosts.source.run("mkdir", "-p", "/srv/images")
    program = "from pathlib import Path\n" + block("From Python", 1, file=MANUAL)
    said = two_hosts.source.run(sys.executable, "-c", program).stdout
    assert said == "web runs\n5\n"
