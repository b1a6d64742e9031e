"""The house rules of the tests, as a pytest plugin: markers from the probes, and strict skipping.

With CI_STRICT=1 a skip is a failure, unless a probe in MAY_LACK justifies it that CI_REQUIRES does
not name.
"""

import os
from collections.abc import Generator, Iterator

import pytest

from tests.probes import MAY_LACK, PROBES

STRICT = os.environ.get("CI_STRICT") == "1"
REQUIRED = frozenset(os.environ.get("CI_REQUIRES", "").split())
JUSTIFIED = pytest.StashKey[bool]()
Report = pytest.TestReport | pytest.CollectReport


def pytest_configure(config: pytest.Config) -> None:
    for name in PROBES:
        config.addinivalue_line("markers", f"needs_{name}: skip where the probe `{name}` says no")
    config.addinivalue_line("markers", "vm: is also run on another kernel, by `make test-vm`")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part", metavar="N/M", help="run every Mth of the selected tests, from the Nth on"
    )


@pytest.hookimpl(trylast=True)  # of what -m and -k have left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if part := config.getoption("--part"):
        number, parts = map(int, part.split("/"))
        others = [item for at, item in enumerate(items, 1) if at % parts != number % parts]
        config.hook.pytest_deselected(items=others)
        items[:] = items[number - 1 :: parts]


def pytest_report_header() -> list[str]:
    answers = {name: probe() for name, probe in PROBES.items()}
    met = " ".join(name for name, why in answers.items() if not why)
    lacking = [f"lacking: {name} ({why})" for name, why in answers.items() if why]
    return [f"probes: {met}", *lacking]


def needs_of(item: pytest.Item) -> Iterator[str]:
    for mark in item.iter_markers():
        if mark.name.startswith("needs_"):
            yield mark.name.removeprefix("needs_")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for need in needs_of(item):
        if why := PROBES[need]():
            if STRICT and need not in MAY_LACK - REQUIRED:
                pytest.fail(f"CI must provide {need}: {why}", pytrace=False)
            item.stash[JUSTIFIED] = True
            pytest.skip(why)


def _refuse_skip(report: Report) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"no probe justifies this skip: {why}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if STRICT and not item.stash.get(JUSTIFIED, False):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if STRICT:
        _refuse_skip(report)
    return report
