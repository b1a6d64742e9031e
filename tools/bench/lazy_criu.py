"""A criu whose lazy dump works here: itself, or with pipes.c before it, or the reason why not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from criu_rpc.process import find_criu
from scenarios.errors import ScenarioFailed

NEEDED_BYTES = 819 * 4096
CAP_SYS_RESOURCE = 24

_HERE = Path(__file__).resolve().parent
_BUILT = _HERE.parents[1] / "build" / "bench"
_LIMIT = Path("/proc/sys/fs/pipe-max-size")


def lazy_criu() -> Path:
    """The criu to use. Raises ScenarioFailed where its lazy dump cannot work."""
    limit = int(_LIMIT.read_text())
    if limit >= NEEDED_BYTES or _has(CAP_SYS_RESOURCE):
        return find_criu()
    compiler = shutil.which("cc")
    if limit < 1 << 20 or compiler is None:
        raise ScenarioFailed(
            f"fs.pipe-max-size is {limit}: criu's lazy dump needs {NEEDED_BYTES}, and there is no "
            "CAP_SYS_RESOURCE and no C compiler to build tools/bench/pipes.c with"
        )
    return _with_smaller_pipes(compiler)


def _with_smaller_pipes(compiler: str) -> Path:
    _BUILT.mkdir(parents=True, exist_ok=True)
    library, wrapper = _BUILT / "pipes.so", _BUILT / "criu"
    options = ["-shared", "-fPIC", "-O1", "-o", str(library)]
    subprocess.run([compiler, *options, str(_HERE / "pipes.c")], check=True)
    wrapper.write_text(f'#!/bin/sh\nLD_PRELOAD={library} exec {find_criu()} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def _has(capability: int) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)
