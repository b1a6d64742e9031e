"""The program of the server: a fresh interpreter with one thread, in a session of its own."""

from __future__ import annotations

import marshal
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from runtime.memory.lazy.ending import kill_all
from runtime.memory.lazy.layout import DONE, FAILED, W_STATUS
from runtime.memory.lazy.local_pages import ImagePages, StorePages
from runtime.memory.lazy.pages import Pages
from runtime.memory.lazy.remote_pages import RemotePages
from runtime.memory.lazy.server import Server
from runtime.memory.lazy.state import State
from runtime.memory.lazy.twin import Succeeded, Succession

#: the descriptors that it is started with; LIFE_FD is held open until both processes have ended,
#: OWNER_FD is at its end when the owner has; the last two are there for pages of a source host
STATE_FD, PLAN_FD, LISTENER_FD, ORDERS_FD, LIFE_FD, OWNER_FD, CACHE_FD, PAGES_FD = range(3, 11)
# linux/prctl.h has none for it: proc_pid_oom_score_adj(5)
_NEVER = "-1000"


def main() -> None:
    """Serve; ends the process, with status 0 when every page is there."""
    _prepare()
    state = State.attach(STATE_FD)
    with os.fdopen(PLAN_FD, "rb", closefd=False) as file:
        plan = marshal.load(file)
    # Opened once: a lock on a file that a killed server held is ours only by the same descriptor.
    pages = _open_pages(plan, state)
    succession = Succession(state)
    while True:
        with suppress(Succeeded):
            _serve(state, pages, succession, plan)


def _serve(state: State, pages: Pages, succession: Succession, plan: dict[str, Any]) -> None:
    try:
        succession.begin()
        if state.words[W_STATUS] == FAILED:
            _fail(state, succession, plan)
        Server(
            state,
            pages,
            succession,
            listener_fd=LISTENER_FD,
            orders_fd=ORDERS_FD,
            owner_fd=OWNER_FD,
            discard=plan["discard"],
        ).run()
    except Exception as error:  # noqa: BLE001 - whatever it is, no process may see zeros for it
        state.say(f"{type(error).__name__}: {error}")
        _fail(state, succession, plan)
    _leave_word(plan, "")
    state.words[W_STATUS] = DONE
    succession.end()
    os._exit(0)


def _fail(state: State, succession: Succession, plan: dict[str, Any]) -> None:
    state.words[W_STATUS] = FAILED
    kill_all(state.load().spaces)
    _leave_word(plan, state.said() or "it failed")
    succession.end()
    os._exit(1)


def _leave_word(plan: dict[str, Any], text: str) -> None:
    """Where the plan asks for it: nothing when all is well, else why it is not."""
    if path := plan.get("last_word"):
        with suppress(OSError):
            Path(f"{path}.new").write_text(text)
            os.rename(f"{path}.new", path)


def _open_pages(plan: dict[str, Any], state: State) -> Pages:
    if plan["kind"] == "remote":
        return RemotePages(state, CACHE_FD, PAGES_FD, plan["give_up_after_s"])
    if plan["kind"] == "store":
        return StorePages(Path(plan["directory"]))
    return ImagePages(plan["files"], plan["spaces"])


def _prepare() -> None:
    """Only SIGKILL ends us, and it not soon."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    os.chdir("/")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(OSError):  # without CAP_SYS_RESOURCE
        Path("/proc/self/oom_score_adj").write_text(_NEVER)
    sys.setswitchinterval(1000)


if __name__ == "__main__":
    main()
