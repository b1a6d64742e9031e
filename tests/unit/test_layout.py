"""The rules of the house, read off the source: who may import whom, and what keeps files small."""

import ast
import importlib
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each package, and those it may import: one direction, downwards.
BELOW = {
    "criu_rpc": set[str](),
    "runtime": {"criu_rpc"},
    "migrator": {"runtime", "criu_rpc"},
    "scenarios": {"migrator", "runtime", "criu_rpc"},
}
# A story is run by a command, and by nothing else of the package that it tells about.
EXCEPTIONS = {("migrator/commands/scenario.py", "scenarios")}

# Each library that is not everyone's, and the files that may import it. Few start programs: criu,
# hooks, the container itself, rsync, ssh, the guardian; lab and stories start what they like.
HOMES = {
    "pycriu": ["criu_rpc/*"],
    "google": ["criu_rpc/*"],
    "pyroute2": ["runtime/network/*"],
    "jeepney": ["runtime/cgroups/systemd_bus.py"],
    "paramiko": ["migrator/transport.py"],
    "cryptography": ["migrator/tls.py", "runtime/memory/contents.py"],  # which paramiko brings
    "click": ["migrator/cli.py", "migrator/commands/*"],
    "rich": ["migrator/cli.py", "migrator/commands/*", "migrator/render.py"],
    "ctypes": ["runtime/*"],
    "subprocess": [
        "criu_rpc/process.py",
        "criu_rpc/daemons.py",
        "runtime/hooks.py",
        "runtime/process/*",
        "migrator/rootfs.py",
        "migrator/guardian.py",
        "migrator/ssh_config.py",
        "migrator/ssh_proxy.py",
        "migrator/commands/ps.py",
        "migrator/lab/*",
        "scenarios/*",
    ],
}

MAX_LINES = 400
# Files that are longer, and why each may be.
LONG = {"migrator/migrate.py": "the order of all steps, and who may run the container at each"}

PACKAGES = [name for name in BELOW if (ROOT / name).is_dir()]
FILES = sorted(str(p.relative_to(ROOT)) for name in PACKAGES for p in (ROOT / name).rglob("*.py"))


@cache
def imports(file: str) -> list[tuple[int, str]]:
    """Line and full name of each module that *file* imports, anywhere in it."""
    return list(_imports(ast.parse((ROOT / file).read_text(), file)))


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module or ""


def top(name: str) -> str:
    return name.partition(".")[0]


def test_the_walk_sees_the_packages() -> None:
    assert "criu_rpc/client.py" in FILES


def test_packages_import_only_those_below_them() -> None:
    wrong = [
        f"{file}:{line} imports {name}"
        for file in FILES
        for line, name in imports(file)
        if top(name) in BELOW.keys() - {file.partition("/")[0]}
        and top(name) not in BELOW[file.partition("/")[0]]
        and (file, top(name)) not in EXCEPTIONS
    ]
    assert not wrong


def test_libraries_are_imported_only_where_they_are_at_home() -> None:
    wrong = [
        f"{file}:{line} imports {name}"
        for file in FILES
        for line, name in imports(file)
        if not any(fnmatch(file, home) for home in HOMES.get(top(name), ["*"]))
    ]
    assert not wrong


def test_nothing_is_imported_that_the_project_does_not_declare() -> None:
    known = sys.stdlib_module_names | BELOW.keys() | HOMES.keys()
    wrong = [
        f"{file}:{line} imports {name}"
        for file in FILES
        for line, name in imports(file)
        if top(name) not in known
    ]
    assert not wrong


def test_no_file_is_long_without_a_reason() -> None:
    long = {file for file in FILES if len((ROOT / file).read_text().splitlines()) > MAX_LINES}
    assert long == LONG.keys()


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


@pytest.mark.parametrize("file", [file for file in FILES if file.endswith("/__init__.py")])
def test_every_name_in_all_is_there(file: str) -> None:
    module = importlib.import_module(file.removesuffix("/__init__.py").replace("/", "."))
    names = getattr(module, "__all__", [])
    assert [name for name in names if not hasattr(module, name)] == []
    assert sorted(set(names), key=names.index) == list(names)
