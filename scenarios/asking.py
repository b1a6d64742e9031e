"""How a process without a network is asked: a file /ask appears in its root, it writes /answer."""

from __future__ import annotations

import time
from pathlib import Path

from scenarios.errors import ScenarioFailed


def ask(rootfs: Path, *, patience_s: float = 10) -> str:
    """What the process with that root file system answers. Raises ScenarioFailed if nothing."""
    answer = rootfs / "answer"
    answer.unlink(missing_ok=True)
    (rootfs / "ask").touch()
    deadline = time.monotonic() + patience_s
    while not answer.exists():
        if time.monotonic() > deadline:
            raise ScenarioFailed(f"the process in {rootfs} does not answer: is it running?")
        time.sleep(0.01)
    return answer.read_text()
