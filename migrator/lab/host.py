"""A host of a lab that is up, for those who run commands on it from Python."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrator.lab import node
from migrator.lab.errors import StepFailed
from migrator.lab.layout import Node


@dataclass(frozen=True, slots=True)
class Host:
    """A node that commands can be run on."""

    node: Node

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def address(self) -> str:
        return self.node.address

    @property
    def bridge(self) -> str:
        """Where its containers are plugged in."""
        return self.node.interface

    def command(self, *arguments: str | Path) -> list[str]:
        """The argv, for this machine, that runs *arguments* on the host."""
        return node.command(self.node, [str(argument) for argument in arguments])

    def run(
        self,
        *arguments: str | Path,
        check: bool = True,
        text_in: str = "",
        timeout_s: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return its output.

        Raises StepFailed, with what it wrote to standard error, when it fails and *check* is set,
        or when it takes too long; it then goes on there.
        """
        try:
            done = subprocess.run(
                self.command(*arguments),
                input=text_in,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StepFailed(
                f"run {arguments[0]} on {self.name}", f"it did not end within {timeout_s:g} s"
            ) from None
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
            raise StepFailed(f"run {arguments[0]} on {self.name}", said)
        return done

    def popen(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a command and leave it running; *options* are subprocess.Popen's.

        To end it, close its standard input or signal it from within: killing what this returns
        kills only the process that entered the host.
        """
        return subprocess.Popen(self.command(*arguments), text=True, **options)
