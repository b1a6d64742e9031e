"""The migration of one running container: the story on one page.

    preflight -> prepare -> sync rootfs -> copy memory -> arm
        -> copy shared memory -> copy memory again
        -> [ freeze, dump, last pages, sync again, restore, fence | COMMIT | run ]
        -> fill -> clean up

What stands in brackets happens inside CRIU's hold of the frozen source; the bar is the point of no
return. Up to it every step has pushed its undo, and any error - also an interrupt, also our own
death, through CRIU and the guardian - ends with the source running as before. Past it the
destination alone may run the container: the source is ended when the destination says "running",
resumed when it says "dead", and stays frozen else.
"""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack, suppress
from typing import Any

from criu_rpc import CriuError, Notification
from criu_rpc.logger import Logger
from migrator import clients, preflight, shared_memory
from migrator import messages as m
from migrator.asking import ask_to_run
from migrator.bandwidth import Limiter
from migrator.departure import Departure
from migrator.destination import AgentFailed, DestinationAgent
from migrator.errors import (
    CopyLost,
    MigrationError,
    OutcomeUnknown,
    PagesLost,
    PeerLost,
    PreflightFailed,
    RolledBack,
    SourceLeftBehind,
    StillNeeded,
)
from migrator.files import Files
from migrator.images import ImageSender
from migrator.interrupts import Interrupts
from migrator.journal import SOURCE, peek
from migrator.pages.sender import Sender
from migrator.plan import Plan
from migrator.postcopy import PostCopy
from migrator.report import Observer, Recorder, Report, used
from migrator.serving import Link
from migrator.source import Source
from migrator.watch import Watch, unfinished
from runtime import ContainerError
from runtime.memory.lazy.launch import LazyPagesFailed
from runtime.memory.loaded import loaded_pages

logger = Logger(__name__)

# The source is ended so long after the destination runs. To free a GiB takes 130 ms of a CPU, and
# the container has more urgent use for it where two hosts are guests of one machine: it fetches its
# first pages then.
_FIRST_PAGES_S = 0.25


def migrate(plan: Plan, observer: Observer | None = None) -> Report:
    """Move plan.container to plan.destination.

    Returns when it runs there and is gone here. Raises PreflightFailed, DestinationUnreachable,
    RolledBack and what runtime and criu_rpc say of the container itself: it then runs here as
    before; OutcomeUnknown: it is frozen here, see `migrator resolve`.
    """
    recorder = Recorder(observer)
    with ExitStack() as stack:
        with recorder.phase("load"):
            source = Source(plan)
            stack.callback(source.close)
            clients.ensure_nobodys(source.container.state)
            if peek(plan.root, plan.container, SOURCE):
                raise unfinished(plan.container)
        with recorder.phase("connect"):
            agent = stack.enter_context(DestinationAgent.open(plan.destination))
        migration = Migration(plan, source, agent, recorder)
        stack.callback(lambda: migration.agent.close())
        return migration.run()


class Migration:
    """One attempt, with everything that it needs at hand."""

    def __init__(
        self,
        plan: Plan,
        source: Source,
        agent: DestinationAgent,
        recorder: Recorder,
    ) -> None:
        self.plan, self.source, self.agent, self.recorder = plan, source, agent, recorder
        self.id = uuid.uuid4().hex
        self.limiter = Limiter(plan.bandwidth)
        self.undo = ExitStack()
        self.machine = agent.machine
        #: who may run it: "source", "destination", or "unknown" between COMMIT and the answer
        self.owner = "source"
        self.watch: Watch | None = None
        #: how the memory moves: "cold" or one of the others, once the destination was asked
        self.mode = plan.mode
        #: what is restored may have to wait for pages
        self.served = False
        #: memory that goes before the freeze and into the images all the same
        self.shared_bytes = 0
        self.departure: Departure | PostCopy | None = None
        self.slowed = False
        self.filled: m.Filled | None = None
        self.sender: ImageSender | None = None
        self.files: Files | None = None
        self.frozen_at_ms = self.restore_asked_ms = self.runs_at_ms = 0.0
        self.warnings: list[str] = []

    def run(self) -> Report:
        """Everything, in order."""
        with Interrupts() as self.interrupts:
            try:
                needs = self._preflight()
            except (ContainerError, OSError):
                self.source.ensure_it_runs()  # else that is the reason
                raise
            try:
                self._begin()
                self._prepare(needs)
                self._sync_rootfs()
                self._copy_memory()
                self._arm()
                self._dump()
                self._clean_up()
            except BaseException as error:
                self._failed(error)
                raise
        return self._report()

    def _preflight(self) -> m.Preflight:
        phase = self.recorder.phase
        with phase("preflight"):
            self.source.probe()
            self.source.plan_dump()
            needs = preflight.needs(self.plan, self.source.container, self.source.criu)
            reasons = preflight.objections(self.plan, self.source.container)
            verdict = self.agent.preflight(needs)
            self.mode, objection = self.plan.chosen_mode(verdict.lazy_pages)
            self.served = verdict.lazy_pages and self.mode != "cold"
            reasons += [*verdict.reasons, *objection]
            if left := self.source.started_by_exec():
                self.warnings.append(f"processes {left} were started by exec: they did not move")
        if reasons:
            raise PreflightFailed(self.plan.container, self.agent.host, reasons)
        return needs

    def _begin(self) -> None:
        """From here a crash leaves a record, and someone who acts by it."""
        state = self.source.container.state
        self.watch = Watch(
            self.plan,
            migration=self.id,
            destination=self.plan.destination.to_json(),
            machine=self.machine,
            init=[state.init_pid, state.init_start_time],
            images_dir=str(self.source.images_dir),
            bandwidth=self.plan.bandwidth,
        )

    def _note(self, step: str, **data: Any) -> None:
        """Write to the journal. Raises OSError."""
        assert self.watch is not None
        self.watch.journal.write(step, **data)

    def _note_if_possible(self, step: str, **data: Any) -> None:
        """Past the commit a full disk ends nothing: what is not written will be asked again."""
        with suppress(OSError):
            self._note(step, **data)

    def _prepare(self, needs: m.Preflight) -> None:
        with self.recorder.phase("prepare"):
            assert self.source.images_dir is not None
            self.source.images_dir.mkdir(mode=0o700)
            # whatever the restored copy said to the switches, the last word is the source's
            self.undo.callback(self.source.announce)
            self.undo.callback(lambda: self.agent.discard("the source gave up"))
            if self.mode != "cold":
                self.shared_bytes = shared_memory.size_bytes(self.source.container)
            config = (self.source.container.state.bundle / "config.json").read_text()
            way = "store" if self.served else "whole"
            self.agent.prepare(
                needs,
                migration=self.id,
                shared_bytes=self.shared_bytes,
                memory={"cold": "images", "post-copy": "source"}.get(self.mode, way),
                give_up_after_s=self.plan.give_up_after_s,
                keep_pages=self.plan.keep_pages,
                config=config,
            )

    def _sync_rootfs(self) -> None:
        if self.plan.rootfs_mode == "sync":
            self.files = Files(self.source, self.agent, self.limiter)
            with self.recorder.phase("sync rootfs"):
                self.files.send()

    def _copy_memory(self) -> None:
        if self.mode == "cold":
            return
        if self.mode == "post-copy":
            self.departure = PostCopy(self.source.container, self.limiter)
            self.undo.callback(self.departure.abort)
            return
        self.source.watch_cpu()
        with self.recorder.phase("copy memory"):
            sender = Sender(
                self.agent.open_stream("pages"),
                compression=self.plan.compression,
                limiter=self.limiter,
            )
            self.undo.callback(sender.abort)
            self.departure = Departure(
                self.source.container,
                self.plan,
                sender,
                alive=self.interrupts.check,
                slow_down=self._slow_down,
            )
            self.undo.callback(self.departure.abort)
            self.departure.copy_rounds()

    def _slow_down(self, share: float) -> None:
        """It writes faster than the link carries: it gets less CPU until it has moved."""
        former = self.source.cpu_limits
        if former is not None and not self.slowed:
            self.slowed = True
            self._note("slow down", former=former)
            self.undo.callback(self.source.slow_down, 1.0)
        self.source.slow_down(share)

    def _arm(self) -> None:
        with self.recorder.phase("arm"):
            self.source.arm()
            hot = self.departure.hot() if self.departure else []
            options = self.source.restore_options(lazy_pages=self.served)
            if refused := self.agent.arm(m.Arm(options, hot)):
                logger.info("%s: CRIU moves the network namespace: %s", self.agent.host, refused)
                self.source.arm(own_network=False)
            assert self.source.images_dir is not None
            self.sender = ImageSender(
                self.source.images_dir,
                self.agent.open_stream("images"),
                self.limiter,
                keeps_bytes=self.agent.keeps_bytes,
            )
            self.undo.callback(self.sender.abort)
            self.sender.give(loaded_pages(self.source.container.processes()))
            if self.files is not None:
                self.undo.callback(self.files.abort)
                self.files.arm()
        if self.shared_bytes:
            with self.recorder.phase("copy shared memory"):
                shared_memory.give(self.source.container, self.sender, self.interrupts.check)
        self.sender.start()
        if isinstance(self.departure, PostCopy):
            self.departure.open(self.agent.open_stream("lazy"))
        elif self.departure is not None:
            with self.recorder.phase("copy memory again"):
                self.departure.catch_up()

    def _dump(self) -> None:
        self._note("dumping", criu=self.source.criu_identity())
        try:
            self.source.dump(self._on_notify)
        except (CriuError, ContainerError) as error:
            if self.owner != "destination":
                raise
            logger.info("the dump of the ended source: %s", error)  # we killed what it still held
        if self.owner != "destination":
            raise MigrationError("criu ended the dump without asking whether it may")

    def _on_notify(self, notification: Notification) -> None:
        """CRIU's steps; raising refuses the step, and CRIU then resumes the container."""
        self.interrupts.check()
        if notification.script == "pre-dump":
            self.frozen_at_ms = self.recorder.frozen_since_ms = self.recorder.now_ms()
        elif notification.script == "query-ext-files":
            self._all_stands_still()
        elif notification.script == "post-dump":
            self.recorder.add("dump", self.frozen_at_ms, self.recorder.now_ms() - self.frozen_at_ms)
            self._hand_over()

    def _all_stands_still(self) -> None:
        """Pages and files go while CRIU dumps the rest."""
        if self.slowed:
            self.source.slow_down(1.0)  # CRIU has its tasks work for it
        if self.departure is not None:
            self.departure.begin(self.source.bare)
        if self.files is not None and not self.source.has_lost_names:
            self.files.start()  # else once CRIU has made names

    def _hand_over(self) -> None:
        """With the container dumped and held: complete the destination's copy, then commit."""
        assert self.sender is not None
        # Were CRIU killed from here on, its tasks would go on with their sockets in repair mode:
        # frozen, they wait until `thaw` has set that right.
        self.undo.callback(self.source.thaw)
        self.source.freeze()
        spaces: dict[str, int] = {}
        if self.departure is not None:
            assert self.source.images_dir is not None
            with self.recorder.phase("complete images"):
                spaces = self.departure.complete(self.source.images_dir, self._alive)
        self.sender.complete()
        if self.files is not None:
            with self.recorder.phase("sync rootfs again"):
                self.files.finish(self._alive)
        with self.recorder.phase("send images"):
            files = self.sender.finish(self._alive)
        self.restore_asked_ms = self.recorder.now_ms()
        self.agent.restore(m.Restore(files, spaces, self.mode == "pre-copy"))
        if self.departure is not None:
            with self.recorder.phase("last pages"):
                self._settle(self.departure)
        with self.recorder.phase("restore"):
            restored = self.agent.restored(alive=self._alive)
        self._add_phases(restored.phases)
        self._commit()

    def _settle(self, departure: Departure | PostCopy) -> None:
        """All pages there: or why the destination, which restores meanwhile, takes no more."""
        try:
            departure.settle(self._alive)
        except PeerLost:
            self.agent.restored(alive=self._alive)
            raise

    def _commit(self) -> None:
        with self.recorder.phase("fence"):
            self.undo.callback(self.source.reconnect)
            self.source.isolate()
            self.source.ensure_it_lives()
            self._alive()
            self.interrupts.hold()
        with self.recorder.phase("commit"):
            left = self.departure.processes if isinstance(self.departure, PostCopy) else []
            self._note("commit", left=left)
            self.owner = "unknown"
            outcome, self.agent = ask_to_run(
                self.plan, self.id, self.agent, self.source.held_packets(), self._add_phases
            )
        if outcome != "running":
            self.owner = "source"
            raise MigrationError(f"{self.agent.host} could not run it")
        self.owner = "destination"
        self.runs_at_ms = self.recorder.now_ms()
        self.recorder.frozen_since_ms = None
        if isinstance(self.departure, PostCopy):
            self._serve(self.departure)
        self._note_if_possible("moved")
        if isinstance(self.departure, Departure):
            time.sleep(_FIRST_PAGES_S)
        with self.recorder.phase("end source"):
            self.source.end()

    def _serve(self, left: PostCopy) -> None:
        """It runs there with its memory here: serve that until all of it is there."""
        self._note_if_possible("serving")
        name, to = self.plan.container, self.plan.destination
        link = Link(to, self.machine, migration=self.id, container=name, agent=self.agent)
        try:
            with self.recorder.phase("serve"):
                self.interrupts.allow()
                left.serve(link, self.plan.give_up_after_s, self.interrupts.check)
        except KeyboardInterrupt:
            self.interrupts.hold()
            left.abort()  # whoever goes on serves it alone
            raise StillNeeded(name, str(to), "interrupted") from None
        except (CopyLost, PagesLost) as error:
            self._note_if_possible("lost", why=error.why)
            link.finish()
            raise
        finally:
            self.interrupts.hold()
            self.agent = link.agent or self.agent

    def _failed(self, error: BaseException) -> None:
        """What an error means, by who may run the container now."""
        self.interrupts.hold()
        if self.owner == "source":
            self._roll_back(error)
            return
        # nothing may be undone any more: the journal says what is left to do
        self._let_go(done=isinstance(error, CopyLost | PagesLost), forget=False)
        if isinstance(error, StillNeeded | CopyLost | PagesLost):
            return
        if self.owner == "destination":
            raise SourceLeftBehind(self.plan.container, str(error)) from error
        if not isinstance(error, OutcomeUnknown):
            raise OutcomeUnknown(self.plan.container, self.agent.host, str(error)) from error

    def _roll_back(self, error: BaseException) -> None:
        """Undo all; what fails of it is left to the guardian, and a note of *error*.

        Raises RolledBack in its place where that says more.
        """
        phase, undone = self.recorder.current, True
        with self.recorder.phase("roll back"):
            try:
                self.undo.close()
            except PeerLost as second:
                error.add_note(f"{self.agent.host} was not told: {second}")
            except Exception as second:  # noqa: BLE001 - must not hide the first error
                undone = False
                error.add_note(f"undoing it: {second}")
            self._let_go(done=undone, forget=undone)
        began = self.watch is not None
        explained = isinstance(error, MigrationError | ContainerError | CriuError | OSError)
        if began and explained and undone:
            fate = self.source.fate()
            raise RolledBack(self.plan.container, phase, str(error), fate) from error
        if began and undone and isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{self.plan.container} {self.source.fate()}") from error

    def _clean_up(self) -> None:
        with self.recorder.phase("clean up"):
            preflight.mark(self.source.container.state.bundle, self.plan.container)
            if self.departure is not None:
                self.departure.close()
            self.source.forget()
        if self.departure is not None:
            with self.recorder.phase("fill"):
                self._fill()
        with self.recorder.phase("finish"):
            try:
                self.agent.finish(migration=self.id, container=self.plan.container)
            except MigrationError as error:
                logger.info("the destination was not told that all is done: %s", error)
            self._let_go(done=True, forget=True)

    def _fill(self) -> None:
        """The container runs: its last pages come from the destination's own store."""
        try:
            self.interrupts.allow()
            self.filled = self.agent.fill(alive=self.agent.ensure_connected)
        except KeyboardInterrupt:
            self.warnings.append("its last pages are still on their way into it")
        except MigrationError as error:
            if isinstance(error, AgentFailed) and error.kind == LazyPagesFailed.__name__:
                self._let_go(done=True, forget=True)
                self.watch = None
                raise PagesLost(self.plan.container, self.agent.host, str(error)) from error
            self.warnings.append(f"it is not known whether every page is in its place: {error}")
        finally:
            self.interrupts.hold()

    def _let_go(self, *, done: bool, forget: bool) -> None:
        """Without *done* the guardian goes on where we stopped."""
        if self.watch is not None:
            self.watch.end(done=done, forget=forget)

    def _alive(self) -> None:
        """What must hold while we wait inside the hold."""
        self.source.ensure_criu_holds()
        self.agent.ensure_connected()
        if isinstance(self.departure, PostCopy):
            self.departure.ensure_served()
        self.interrupts.check()

    def _add_phases(self, phases: list[list[Any]]) -> None:
        """The destination's, which it times from our Restore on: clocks need not agree."""
        for name, start_ms, duration_ms in phases:
            start = self.restore_asked_ms + float(start_ms)
            self.recorder.add(str(name), start, float(duration_ms), host="destination")

    def _report(self) -> Report:
        assert self.sender is not None
        memory = self.departure.report(self.filled) if self.departure else None
        return Report(
            container=self.plan.container,
            destination=self.agent.host,
            outcome="migrated",
            mode=self.mode,
            frozen_at_ms=self.frozen_at_ms,
            downtime_ms=self.runs_at_ms - self.frozen_at_ms,
            total_ms=self.recorder.now_ms(),
            image_bytes=self.sender.bytes_sent,
            rootfs_bytes=self.files.bytes_sent if self.files else 0,
            phases=sorted(self.recorder.phases, key=lambda phase: phase.start_ms),
            memory=memory,
            warnings=self.warnings,
            **used(),
        )
