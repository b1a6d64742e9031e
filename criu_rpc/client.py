"""One conversation with one criu process (CRIU's cr-service.c, rpc.proto).

A `criu swrk` answers any number of VERSION, FEATURE_CHECK and CPUINFO_* requests and then one
dump, pre-dump or restore, after which it ends. CRIU asks back at notifications (notify.py); we
answer each, whatever happens, and then take its final word.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from criu_rpc import log, stats
from criu_rpc.conversation import Conversation, spoken
from criu_rpc.errors import CriuError, CriuRequestFailed, CriuTooOld, MissingFeature
from criu_rpc.features import Features, Version, minimum_version
from criu_rpc.logger import Logger
from criu_rpc.notify import Handler
from criu_rpc.options import CommonOptions, DumpOptions, RestoreOptions, fill
from criu_rpc.process import CriuProcess, find_criu
from criu_rpc.proto import rpc
from criu_rpc.stats import DumpStats, RestoreStats

logger = Logger(__name__)

# A criu that was hung up on goes as soon as it next looks at its socket; writing a large dump to
# a slow disk may come first.
_GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored tree: its root task's pid as we see it, and what it cost."""

    pid: int
    stats: RestoreStats


class Criu:
    """A running `criu swrk`. A context manager: leaving it ends criu, and criu undoes its work."""

    def __init__(self, process: CriuProcess, inherit: Mapping[str, int]) -> None:
        self._process = process
        self._inherit = dict(inherit)
        self._version: Version | None = None
        self._closed = self._spent = False

    @classmethod
    def start(
        cls,
        criu: Path | None = None,
        *,
        inherit: Mapping[str, int] | None = None,
        launcher: Sequence[str] = (),
        keep_fds: Iterable[int] = (),
        within: AbstractContextManager[object] | None = None,
    ) -> "Criu":
        """Start criu; it waits for requests until it is closed.

        inherit: CRIU's name of an external resource -> our descriptor for it, for a restore.
        launcher: argv of a program that prepares a place for criu and execs the rest of its
        arguments; it gets *keep_fds* too. within: entered by this thread for the moment in which
        the process is made, which inherits the thread's namespaces.
        Raises CriuNotFound.
        """
        inherit = inherit or {}
        process = CriuProcess.spawn(
            criu or find_criu(),
            launcher=launcher,
            keep_fds={*inherit.values(), *keep_fds},
            within=within or nullcontext(),
        )
        return cls(process, inherit)

    @property
    def pid(self) -> int:
        """Process id of criu."""
        return self._process.pid

    @property
    def pidfd(self) -> int:
        """Readable once criu has ended: to be watched by a handler that holds for long."""
        return self._process.pidfd

    def alive(self) -> bool:
        """Whether criu is still there."""
        return not self._closed and not self._process.ended()

    def version(self) -> Version:
        """CRIU's version. Raises CriuDied, BadReply."""
        if self._version is None:
            reply = self._ask("VERSION")
            self._version = Version(
                reply.version.major_number, reply.version.minor_number, reply.version.sublevel
            )
        return self._version

    def require(self, *features: str) -> None:
        """Raise CriuTooOld or MissingFeature unless CRIU suits the kernel and has *features*.

        features: names of fields of Features.
        """
        if (found := self.version()) < (needed := minimum_version()):
            raise CriuTooOld(str(found), str(needed))
        if features:
            has = self.features()
            if missing := tuple(name for name in features if not getattr(has, name)):
                raise MissingFeature(missing)

    def features(self) -> Features:
        """What CRIU and the kernel can do.

        CRIU probes the kernel for it; where /run is a tmpfs it keeps the result there, and spares
        every later dump and restore some 30 ms.
        """
        request = self._request("FEATURE_CHECK", keep_open=True)
        wanted = request.features
        wanted.mem_track = wanted.lazy_pages = wanted.pidfd_store = True
        found = self._answer("FEATURE_CHECK", request).features
        return Features(
            mem_track=found.mem_track, lazy_pages=found.lazy_pages, pidfd_store=found.pidfd_store
        )

    def cpuinfo_dump(self, images_dir: Path) -> None:
        """Write this CPU's features to *images_dir*/cpuinfo.img."""
        self._cpuinfo("CPUINFO_DUMP", images_dir)

    def cpuinfo_check(self, images_dir: Path) -> None:
        """Raise CriuRequestFailed unless this CPU can do what *images_dir*/cpuinfo.img says."""
        self._cpuinfo("CPUINFO_CHECK", images_dir)

    def dump(self, options: DumpOptions, on_notify: Handler | None = None) -> DumpStats:
        """Dump the tree at options.pid; this ends criu.

        Raises CriuRequestFailed, or what *on_notify* raised: the tree then runs as before, its
        network unlocked; CriuDied: it runs, but nothing around it is undone (see CriuDied).
        """
        self._work("DUMP", options, on_notify)
        return stats.dump_stats(options.work_dir or options.images_dir)

    def pre_dump(self, options: DumpOptions, on_notify: Handler | None = None) -> DumpStats:
        """Dump memory only and let the tree run on; this ends criu. Raises as dump."""
        self._work("SINGLE_PRE_DUMP", options, on_notify)
        return stats.dump_stats(options.work_dir or options.images_dir)

    def restore(self, options: RestoreOptions, on_notify: Handler | None = None) -> Restored:
        """Restore a tree from options.images_dir; this ends criu.

        Raises CriuRequestFailed, or what *on_notify* raised up to post-restore: whatever was
        restored has been killed; CriuDied: parts of the tree may still be there.
        """
        reply = self._work("RESTORE", options, on_notify)
        return Restored(reply.restore.pid, stats.restore_stats(options.log_path.parent))

    def stderr(self) -> str:
        """The end of what criu wrote outside its log."""
        return self._process.stderr()

    def kill(self) -> None:
        """SIGKILL criu. Tasks in its hands go on, but see CriuDied for what is not undone."""
        if not self._closed:
            self._process.kill()

    def close(self) -> None:
        """Hang up and reap criu; idempotent."""
        if not self._closed:
            self._closed = True
            self._process.close(_GRACE_S)

    def __enter__(self) -> "Criu":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cpuinfo(self, action: str, images_dir: Path) -> None:
        options = CommonOptions(images_dir=images_dir, log_file="cpuinfo.log")
        request = self._request(action, keep_open=True)
        with _directories(request.opts, options):
            self._answer(action, request, log_path=options.log_path)

    def _work(self, action: str, options: CommonOptions, on_notify: Handler | None) -> Any:
        """The one request that ends criu."""
        self.require()
        request = self._request(action)
        request.opts.notify_scripts = True
        if isinstance(options, RestoreOptions):
            for key, fd in self._inherit.items():
                request.opts.inherit_fd.add(key=key, fd=fd)
        with _directories(request.opts, options):
            self._spent = True
            reply = self._answer(action, request, log_path=options.log_path, on_notify=on_notify)
        self._process.wait(_GRACE_S)
        return reply

    def _request(self, action: str, *, keep_open: bool = False) -> Any:
        if self._spent or self._closed:
            raise CriuError(f"criu {self.pid} takes no further request ({action})")
        kinds = rpc().criu_req_type
        return rpc().criu_req(type=kinds.Value(action), keep_open=keep_open)

    def _ask(self, action: str) -> Any:
        return self._answer(action, self._request(action, keep_open=True))

    def _answer(
        self,
        action: str,
        request: Any,
        *,
        log_path: Path | None = None,
        on_notify: Handler | None = None,
    ) -> Any:
        """Send *request*, serve CRIU's notifications, return its final answer."""
        talk = Conversation(self._process, action, on_notify)
        try:
            reply = talk.hold(request)
            if not reply.success:
                raise self._refusal(action, reply, log_path)
        except CriuError as error:
            self._spent = self._spent or not isinstance(error, CriuRequestFailed)
            if talk.failure is None:
                raise
            talk.failure.add_note(str(error))
            raise talk.failure from None
        if talk.failure is not None:
            talk.failure.add_note(f"criu {spoken(action)} went on and succeeded")
            raise talk.failure
        return reply

    def _refusal(self, action: str, reply: Any, log_path: Path | None) -> CriuRequestFailed:
        errmsg = reply.cr_errmsg.strip()
        told = log.first_error([errmsg]) or errmsg
        cause = (log.cause(log_path) if log_path else None) or told or None
        return CriuRequestFailed(
            spoken(action),
            cr_errno=reply.cr_errno,
            cr_errmsg=told,
            log_path=log_path if log_path and log_path.exists() else None,
            cause=cause,
            remedy=log.remedy(cause) or log.remedy(told),
            stderr=self.stderr(),
        )


@contextmanager
def _directories(opts: Any, options: CommonOptions) -> Iterator[None]:
    """Fill *opts*; its directories are open, for criu to reach through our /proc/PID/fd."""
    fill(opts, options)
    with ExitStack() as stack:
        opts.images_dir_fd = _opened(stack, options.images_dir)
        if options.work_dir is not None:
            opts.work_dir_fd = _opened(stack, options.work_dir)
        yield


def _opened(stack: ExitStack, directory: Path) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd
