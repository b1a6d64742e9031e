"""Someone who outlives us: when this process dies in a migration, its guardian resolves it.

A shell that only waits for its standard input to end. A word before the end is the all-clear; the
end without one means that we were killed, and it becomes `migrator resolve CONTAINER`, which acts
by the journal.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from criu_rpc.logger import Logger
from runtime.cgroups.detect import move_to_roots

logger = Logger(__name__)

# exit status 6: the destination cannot be asked yet
_SCRIPT = 'read -r word && exit; while "$@"; [ $? -eq 6 ]; do sleep 5; done'


class Guardian:
    """Watches from its making to `release`."""

    def __init__(self, root: Path, container: str) -> None:
        # -P, and not where we are: that may be a directory of the container's, with modules in it
        python = [sys.executable, "-P", "-m", "migrator"]
        command = [*python, "--root", str(root.absolute()), "resolve", container]
        self._process = subprocess.Popen(
            ["sh", "-c", _SCRIPT, "migrator-guardian", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # a terminal's Ctrl-C is for us alone
        )
        # as is the end of our session or service, which takes all with it that is in its cgroup
        move_to_roots(self._process.pid)
        logger.debug("guardian of %s is pid %d", container, self._process.pid)

    def release(self) -> None:
        """All clear: nothing is half done any more."""
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(OSError):
            stdin.write(b"done\n")
        self.hand_over()
        self._process.wait()

    def hand_over(self) -> None:
        """Let it do its work now: what is left is for `resolve`."""
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(OSError):
            stdin.close()
