"""Errors of the lab.

LabError            something about a lab on this machine
+-- NoSuchLab       none of that name
+-- LabBroken       a part of it has died; `lab down` still removes the rest
+-- NoSuchHost      the lab has no host of that name
+-- StepFailed      a program that the lab needs could not do its work
"""

from __future__ import annotations

from collections.abc import Sequence


class LabError(Exception):
    """Root of all. str() is one line: what failed, and the remedy."""

    exit_code = 1


class NoSuchLab(LabError):
    """Nothing of that name is up."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no lab {name} is up: start it with `migrator lab up --name {name}`")


class LabBroken(LabError):
    """Some of its hosts are gone, as after a crash; what is left still runs."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"lab {name} is broken: {why}; "
            f"remove what is left with `migrator lab down --name {name}`"
        )


class NoSuchHost(LabError):
    """The lab is up and has no such host."""

    def __init__(self, name: str, host: str, hosts: Sequence[str]) -> None:
        super().__init__(f"lab {name} has no host {host}: it has {', '.join(hosts)}")


class StepFailed(LabError):
    """A program failed; what it said is in the message."""

    def __init__(self, step: str, why: str) -> None:
        super().__init__(f"cannot {step}: {why}")
