"""What libcontainer offers has its name here: docs/runtime.md's table, and what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import runtime
from runtime import HookName, clone_flags, is_namespace_supported, ns_name, path_of
from runtime.spec.model import Namespace

DOCUMENT = (Path(__file__).parents[2] / "docs/runtime.md").read_text()
SECTION = DOCUMENT.partition("## From Python")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| `([^|]+?)` \| (.+?) \|$", SECTION, re.MULTILINE)


def test_the_document_has_the_table() -> None:
    assert len(ROWS) >= 100


@pytest.mark.parametrize(("theirs", "ours"), ROWS)
def test_every_name_that_is_promised_is_there(theirs: str, ours: str) -> None:
    for text in re.findall(r"`([A-Za-z_.]+)[^`]*`", ours):
        thing: object = runtime
        for name in text.split("."):
            fields = getattr(thing, "__annotations__", {}) | _attributes(thing)
            assert name in fields or hasattr(thing, name), f"{theirs}: {text}"
            thing = getattr(thing, name, None)


def _attributes(thing: object) -> dict[str, object]:
    """What an object of the class has of its own."""
    if thing is runtime.Container:
        return dict.fromkeys(("root", "state", "hooks"))
    if thing is runtime.IO:
        return dict.fromkeys(("stdin", "stdout", "stderr", "stdio"))
    if thing is runtime.ContainerProcess:
        return dict.fromkeys(("pid", "io", "terminal", "exit_status"))
    return {}


def test_namespaces_have_flags_files_and_paths() -> None:
    assert ns_name("network") == "net"
    assert path_of(17, "mount") == "/proc/17/ns/mnt"
    assert is_namespace_supported("mount")
    assert clone_flags([Namespace("mount"), Namespace("pid", "/proc/1/ns/pid")]) == 0x20000


def test_the_kinds_of_hooks_are_those_of_the_specification() -> None:
    assert [str(name) for name in HookName] == [
        *("prestart", "createRuntime", "createContainer", "startContainer"),
        *("poststart", "poststop"),
    ]


def test_pipes_end_when_the_other_side_does() -> None:
    with runtime.IO() as io:
        assert isinstance(io.stdio.stdout, int)
        os.write(io.stdio.stdout, b"said")
        io.stdin.write(b"heard")
        assert isinstance(io.stdio.stdin, int)
        assert os.read(io.stdio.stdin, 10) == b"heard"
        io.hand_over()
        assert (io.stdout.read(), io.stderr.read()) == (b"said", b"")


def test_pipes_for_which_there_are_no_descriptors_leave_none() -> None:
    program = (
        "import os, resource\n"
        "from runtime import IO\n"
        "with IO():\n"
        "    pass  # all that this imports has been\n"
        "before = sorted(os.listdir('/proc/self/fd'))\n"
        "_, most = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (7, most))\n"
        "try:\n"
        "    IO()\n"
        "except OSError:\n"
        "    assert sorted(os.listdir('/proc/self/fd')) == before\n"
        "    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")
