"""The loop: I/O becomes events, the fleet decides, its actions become I/O.

It decides nothing itself. One thread, one wait point, one timeout (the fleet's earliest
deadline); SIGCHLD is only a hint to look, a peek at each known child is the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, assert_never

import supervisor
from supervisor import kernel, spawn
from supervisor.admission import Admitted, check_complete, check_gates
from supervisor.adoptee import Adoptee, Census
from supervisor.adoption import Former, build_events, build_process
from supervisor.claims import Claims
from supervisor.config import METRICSD, SUPERVISOR
from supervisor.drift import MENDED_SECONDS, Finding
from supervisor.environ import build_metricsd_environment
from supervisor.errors import GateError, PtsupError, UsageError
from supervisor.events import (
    Action,
    Add,
    Claim,
    Claimed,
    ClaimFailed,
    Drain,
    Event,
    Exited,
    Finish,
    GroupGone,
    KillAll,
    Reap,
    Reaped,
    SignalGroup,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    Stop,
    Tick,
)
from supervisor.exposition import render_exposition
from supervisor.fleet import Fleet, Phase, build_fleet, is_opened, step
from supervisor.lifecycle import CLAIM_TRIES, Process, State
from supervisor.logs import read_tail
from supervisor.probe import Prober
from supervisor.remains import Remains
from supervisor.status import build_state, describe, is_news, render_process
from telemetry.clearing import clear_and_say

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from supervisor.config import Config
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")

# How long metricsd may take to answer the first scrape of all before `start` gives up.
OPENING_LIMIT_SECONDS: Final = 30.0
# A group whose members are not our children raises no SIGCHLD when they die: look again.
LOOK_AGAIN_SECONDS: Final = 0.1
# Whoever escaped gets half a second for each: TERM, then KILL.
ESCAPED_SECONDS: Final = 0.5
# A hint may get lost; the truth is looked at anyway.
LOOK_ANYWAY_SECONDS: Final = 5.0
# However much happens, our part of the page is written at most so often.
PUBLISH_SECONDS: Final = 0.25
PACKAGE_ROOT: Final = Path(supervisor.__file__).resolve().parent.parent


@dataclass(slots=True, kw_only=True)
class Loop:
    """One supervisor at work, from its first spawn until nothing runs any more."""

    config: Config
    run_dir: RunDir
    listener: socket.socket
    former: Sequence[Former] = ()  # what a supervisor that died has left us
    exit_when_done: bool = False
    keep_shards: bool = False
    fleet: Fleet = field(init=False)
    prober: Prober = field(init=False)
    claims: Claims = field(init=False)
    remains: Remains = field(init=False)
    members: dict[str, Admitted] = field(default_factory=dict)
    mended: list[Finding] = field(default_factory=list)
    error: PtsupError | None = None

    _children: dict[str, spawn.Child | Adoptee] = field(default_factory=dict)
    _nonces: dict[str, tuple[int, str]] = field(default_factory=dict)  # with their incarnations
    _identities: dict[str, str | None] = field(default_factory=dict)
    _census: Census = field(default_factory=Census)
    _dead: set[str] = field(default_factory=set)  # zombies, peeked at and not reaped yet
    _settling: set[str] = field(default_factory=set)  # adopted and dead: how may yet be told
    _strangers: dict[int, int] = field(default_factory=dict)  # zombies too: their failed claims
    _inbox: deque[Event] = field(default_factory=deque)
    _wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    _look: bool = False
    _looked_at: float = 0.0
    _waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _published: str = ""
    _publishing_failed: bool = False

    def __post_init__(self) -> None:
        """Begin with metricsd and whatever a former supervisor left; sessions are added."""
        now = time.monotonic()
        former = [build_process(each, now) for each in self.former]
        self.fleet = build_fleet((), exit_when_done=self.exit_when_done, former=former)
        self.prober = Prober(
            host=self.config.host,
            port=self.config.port,
            find_metricsd=lambda: self.fleet.metricsd,
            post=self.post,
        )
        self.claims = Claims(
            directory=self.config.multiproc_dir,
            find_own=self._find_own,
            note_change=self._news.set,
        )
        self.remains = Remains(
            find_leaders=lambda: {child.pid for child in self._children.values()},
            find_nonce=lambda name: self._nonces.get(name, (0, ""))[1],
        )

    # -- The loop itself ----------------------------------------------------------------------

    def begin(self) -> None:
        """Go on with whom a former supervisor left; before anybody is added, and before `run`."""
        self.remains.spared = kernel.find_children()  # of a shell that became us by exec
        kernel.become_subreaper()
        self._write_own_state()
        self._adopt_all()

    async def run(self) -> None:
        """Run until nothing runs any more, then clean up; raises what stopped the start."""
        self._publish()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._hint)
        self.background(self.prober.run())
        self.background(self.claims.run())
        self.background(self._keep_published())
        self.background(self._open())
        self.post(Start(METRICSD))  # nothing is done if it was adopted
        try:
            while self.fleet.phase is not Phase.ENDED:
                for event in await self._next_events():
                    self._take(event)
        finally:
            loop.remove_signal_handler(signal.SIGCHLD)
            for task in self._tasks:
                task.cancel()
        if self.error is not None:
            raise self.error

    def post(self, event: Event) -> None:
        """Hand in an event to be taken at the next turn."""
        self._inbox.append(event)
        self._wakeup.set()

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the loop; it ends with it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_task)

    def _note_task(self, task: asyncio.Task[None]) -> None:
        """Let no task fail in silence: without its probes or its drain nothing would end."""
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            log.error("a task failed", exc_info=failure)
            self.error = PtsupError(f"the supervisor failed: {failure!r}")
            self.post(KillAll())

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the fleet fulfils a condition."""
        if condition():
            return
        waiter = (condition, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await waiter[1]
        finally:
            self._waiters.remove(waiter)

    def _hint(self) -> None:
        self._look = True
        self._wakeup.set()

    async def _next_events(self) -> list[Event]:
        if not self._inbox and not self._look:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._find_timeout_seconds()):
                    await self._wakeup.wait()
        self._wakeup.clear()
        events = list(self._inbox)
        self._inbox.clear()
        now = time.monotonic()
        if self._look or self._waits_for_the_dead or now - self._looked_at >= LOOK_ANYWAY_SECONDS:
            self._look, self._looked_at = False, now
            try:
                events += self._find_exits()
                self._reap_strangers()
            except OSError as error:  # out of descriptors, say: nothing is lost by looking later
                log.warning("cannot look for exits: %s", error)
        return [*events, Tick()]

    @property
    def _waits_for_the_dead(self) -> bool:
        return bool(self._dead or self._settling or self._strangers)

    def _find_timeout_seconds(self) -> float:
        timeout = LOOK_AGAIN_SECONDS if self._waits_for_the_dead else LOOK_ANYWAY_SECONDS
        if self.fleet.deadline is not None:
            timeout = min(timeout, self.fleet.deadline - time.monotonic())
        return max(0.0, timeout)

    def take(self, event: Event) -> None:
        """Take an event at once: when this returns, what could be done about it is done."""
        self._take(event)
        self._wakeup.set()  # the loop may be waiting for a deadline that is no longer the first

    def _take(self, event: Event) -> None:
        """Let the fleet decide on an event, and on what its actions feed back."""
        events = deque([event])
        while events:
            before = self.fleet
            self.fleet, actions = step(before, events.popleft(), time.monotonic())
            self._note_changes(before)
            for action in actions:
                events.extend(self._perform(action))
        for condition, waiter in self._waiters:
            if not waiter.done() and condition():
                waiter.set_result(None)

    def _perform(self, action: Action) -> Iterator[Event]:
        match action:
            case Spawn(name, incarnation):
                yield self._spawn(name, incarnation)
            case SignalGroup(name, _, number):
                child = self._children[name]
                if isinstance(child, Adoptee):
                    child.signal_group(number)
                else:
                    self.remains.signal(child, number)
            case Claim(name, incarnation, pid):
                pinned = not isinstance(self._children[name], Adoptee)
                reason = self.claims.claim(name, pid, pinned=pinned)
                if reason is None:
                    yield Claimed(name, incarnation)
                else:
                    yield ClaimFailed(name, incarnation, reason)
            case Reap(name, incarnation):
                yield Reaped(name, incarnation, self._reap(name))
            case Drain():
                self.background(self._drain())
            case Finish():
                self._clean()
            case _:
                assert_never(action)

    # -- Spawning ---------------------------------------------------------------------------------

    def add(self, sessions: Iterable[Admitted]) -> None:
        """Take in sessions that were admitted."""
        sessions = tuple(sessions)
        self.members.update({member.spec.name: member for member in sessions})
        self.take(Add(tuple(member.spec for member in sessions)))

    def _spawn(self, name: str, incarnation: int) -> Spawned | SpawnFailed:
        nonce = secrets.token_hex(8)
        self._nonces[name] = incarnation, nonce
        process = self.fleet.find(name)
        assert process is not None
        self._identities[name] = None
        # The intent, before there is anything to lose. Without it a crash would lose the child;
        # metricsd alone is worth that.
        lock = self._lock_spawn(name, incarnation)
        written = self._write_state(process) and lock is not None
        if not written and name != METRICSD:
            return SpawnFailed(name, incarnation, "cannot write its state down", final=False)
        locks = () if lock is None else (lock,)
        try:
            if name == METRICSD:
                child = self._spawn_metricsd(incarnation, nonce, locks)
            else:
                child = self._spawn_session(self.members[name], incarnation, nonce, locks)
        except spawn.SpawnError as error:
            self.run_dir.remove_lock(name, incarnation)
            return SpawnFailed(name, incarnation, error.reason, error.final)
        except (GateError, UsageError) as error:
            self.run_dir.remove_lock(name, incarnation)
            return SpawnFailed(name, incarnation, error.message, final=True)
        finally:
            for descriptor in locks:  # it is the child's alone from here on
                os.close(descriptor)
        self._children[name] = child
        self._identities[name] = kernel.read_identity(child.pid)
        self._look = True  # it may have died before its SIGCHLD could mean anything to us
        return Spawned(name, incarnation, child.pid)

    def _lock_spawn(self, name: str, incarnation: int) -> int | None:
        try:
            return self.run_dir.lock_spawn(name, incarnation)
        except OSError as error:
            log.warning("cannot lock the spawn of %s: %s", name, error)
            return None

    def _spawn_session(
        self, member: Admitted, incarnation: int, nonce: str, locks: tuple[int, ...]
    ) -> spawn.Child:
        check_complete(member)
        check_gates(member.spec, member.inherited, self.config.denied)
        return spawn.spawn(
            member.spec.name,
            incarnation,
            member.spec.command,
            environment=member.build_environment(self.config.multiproc_dir, nonce),
            cwd=member.spec.cwd,
            log=self.run_dir.log(member.spec.name),
            pass_fds=locks,
        )

    def _spawn_metricsd(self, incarnation: int, nonce: str, locks: tuple[int, ...]) -> spawn.Child:
        self.prober.wake()
        descriptor = self.listener.fileno()
        command = (
            # -P: neither the working directory nor what lies in it can shadow our packages.
            *(sys.executable, "-P", "-m", "telemetry.metricsd", "--fd", str(descriptor)),
            *("--multiproc-dir", str(self.config.multiproc_dir)),
            *("--supervisor-metrics", str(self.run_dir.metrics)),
            *("--handback", str(self.run_dir.handback)),
        )
        return spawn.spawn(
            METRICSD,
            incarnation,
            command,
            environment=build_metricsd_environment(
                os.environ, package_root=PACKAGE_ROOT, nonce=nonce
            ),
            cwd=self.run_dir.path,
            log=self.run_dir.log(METRICSD),
            pass_fds=(descriptor, *locks),
        )

    # -- Adopting ---------------------------------------------------------------------------------

    def _adopt_all(self) -> None:
        """Go on with whom a supervisor that died has left, before anything else is spawned."""
        # A dead metricsd has nothing to be claimed or to be asked: it is started anew.
        adopted = [
            former
            for former in self.former
            if not former.at_rest and (former.lives or former.name != METRICSD)
        ]
        for former in adopted:
            name, incarnation = former.name, former.incarnation
            self._nonces[name] = incarnation, former.nonce
            self._identities[name] = former.identity
            if former.pid is not None:
                self._children[name] = Adoptee(
                    *(name, incarnation, former.pid, former.nonce, former.identity, self._census)
                )
        for former in adopted:
            self._adopt(former)

    def _adopt(self, former: Former) -> None:
        name, remains = former.name, False
        adoptee = self._children.get(name)
        if isinstance(adoptee, Adoptee):
            self._watch(adoptee)
            if not former.lives:
                self._dead.add(name)
                remains = bool(adoptee.find_remains())
        else:
            self.run_dir.remove_lock(name, former.incarnation)
        for event in build_events(former, remains=remains):
            self._take(event)
        if not former.lives:
            log.warning("%s ended while no supervisor lived", name)
            return
        log.info("adopted %s (pid %s)", name, former.pid)
        if former.refusal:
            log.error("%s is stopped: %s", name, former.refusal)
            self._take(Stop(name, reason=former.refusal))

    def _watch(self, adoptee: Adoptee) -> None:
        """Look when it ends, which no SIGCHLD tells of."""
        descriptor = adoptee.watch()
        if descriptor is None:
            self._look = True
            return
        loop = asyncio.get_running_loop()

        def note() -> None:
            loop.remove_reader(descriptor)  # it stays readable for ever
            self._settling.add(adoptee.name)
            self._hint()

        loop.add_reader(descriptor, note)

    # -- Dying: peek, claim, reap -----------------------------------------------------------------

    def _find_exits(self) -> list[Event]:
        """Peek at every child; a zombie stays one until its group is gone and it is claimed."""
        fresh = {
            child.name: found
            for child in self._children.values()
            if child.name not in self._dead and (found := _peek(child)) is not None
        }
        remaining = self._find_remaining(fresh.keys() | self._dead)
        gone = self._dead - remaining
        self._dead |= fresh.keys()
        self._settling -= fresh.keys()
        events: list[Event] = [
            Exited(name, self._children[name].incarnation, found.returncode, name in remaining)
            for name, found in fresh.items()
        ]
        events += [GroupGone(name, self._children[name].incarnation) for name in gone]
        return events

    def _find_remaining(self, names: set[str]) -> set[str]:
        """Find of which of these, whose leaders are dead, somebody lives."""
        children = [self._children[name] for name in names]
        found = self.remains.find(c for c in children if not isinstance(c, Adoptee))
        self._census.expire()
        for child in children:
            if isinstance(child, Adoptee):
                found[child.name] = child.find_remains()
                child.catch_up()
        return {name for name, pids in found.items() if pids}

    def _reap(self, name: str) -> int | None:
        """Give its pid back, or let go of what was no child of ours; say how it ended."""
        self._dead.discard(name)
        child = self._children.pop(name)
        self.run_dir.remove_lock(name, child.incarnation)
        if not isinstance(child, Adoptee):
            self.remains.forget(name)
            return spawn.reap(child)
        child.let_go()
        process = self.fleet.find(name)
        return None if process is None else process.returncode

    def _reap_strangers(self) -> None:
        """Reap the dead among the orphans that became our children, each claimed first."""
        known = {child.pid for child in self._children.values()}
        for pid in kernel.find_children() - known:
            if kernel.peek(pid) is not None and self._claim_stranger(pid):
                spawn.reap_stranger(pid)

    def _claim_stranger(self, pid: int) -> bool:
        """Claim an orphan's shards; false while that is to be tried again, at the next look."""
        failures = self._strangers.pop(pid, 0)
        if self.claims.claim("an orphan", pid) is None or failures + 1 >= CLAIM_TRIES:
            return True
        self._strangers[pid] = failures + 1
        return False

    def _find_own(self) -> set[int]:
        """Find the children that are not reaped yet, orphans that became ours among them."""
        return {child.pid for child in self._children.values()} | kernel.find_children()

    def _end_escaped(self) -> Iterator[None]:
        """End who left the group of its session, and became ours when its parent died.

        Yields whenever there is something to wait for.
        """
        spared = self.remains.spared | {child.pid for child in self._children.values()}
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + ESCAPED_SECONDS
            while (escaped := kernel.find_children() - spared) and time.monotonic() < deadline:
                for pid in escaped:
                    spawn.signal_orphan(pid, number)
                yield
                self._reap_strangers()
            if escaped and number is signal.SIGTERM:
                log.warning("kill what escaped its session's group: %s", sorted(escaped))

    async def _drain(self) -> None:
        """Let the last totals be scraped: those of everybody, wherever it hid."""
        try:
            for _ in self._end_escaped():
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
        except OSError as error:
            log.warning("cannot look for escaped workers: %s", error)
        await self.claims.sweep()
        await self.prober.drain()

    # -- Coming up --------------------------------------------------------------------------------

    @property
    def opened(self) -> bool:
        """Whether metricsd has answered and every session was spawned, or could not be."""
        return self.fleet.phase is Phase.SERVING and all(
            map(is_opened, self.fleet.sessions.values())
        )

    def find_stopping(self) -> list[tuple[str, float]]:
        """Find who is stopping, and the seconds each has left before KILL."""
        now = time.monotonic()
        return [
            (process.name, process.deadline - now)
            for process in self.fleet.sessions.values()
            if process.state is State.STOPPING and process.deadline is not None
        ]

    async def _open(self) -> None:
        """Give up when metricsd does not come up at all."""
        try:
            async with asyncio.timeout(OPENING_LIMIT_SECONDS):
                await self.wait_until(lambda: self.fleet.phase is not Phase.OPENING)
        except TimeoutError:
            lines = read_tail(self.run_dir.log(METRICSD), 3)
            tail = [line for line in lines if not line.startswith("hint:")]
            self.error = PtsupError(
                f"cannot start: metricsd did not answer within {OPENING_LIMIT_SECONDS:g} s",
                f"its last words: {tail[-1]}" if tail else "it said nothing",
            )
            self.post(KillAll())

    @property
    def findings(self) -> list[Finding]:
        """All that is not as it should be, and for a while what was mended."""
        now = time.monotonic()
        self.mended = [found for found in self.mended if now - found.since < MENDED_SECONDS]
        return [*self.claims.findings.values(), *self.mended]

    # -- What is written down ----------------------------------------------------------------------

    def _note_changes(self, before: Fleet) -> None:
        if self.fleet is not before:
            self._news.set()
        for process in self.fleet.processes:
            former = before.find(process.name)
            if process is former:
                continue
            self._write_state(process)
            if former is None or process.state is former.state or not is_news(process):
                continue
            if (former.state, process.state) != (State.STOPPED, State.RUNNING):  # an adoption
                log.info(render_process(describe(process)))
        if before.phase is Phase.OPENING and self.fleet.phase is Phase.SERVING:
            log.info("metricsd answers on %s", self.prober.url)

    def _write_state(self, process: Process) -> bool:
        member = self.members.get(process.name)
        incarnation, nonce = self._nonces.get(process.name, (0, ""))
        state = build_state(
            process,
            member.spec if member else None,
            # Without one it is no intent yet: that incarnation is still to be spawned.
            nonce=nonce if incarnation == process.incarnation else "",
            identity=self._identities.get(process.name),
        )
        try:
            self.run_dir.write_state(process.name, state)
        except OSError as error:
            log.warning("cannot write the state of %s: %s", process.name, error)
            return False
        return True

    def _write_own_state(self) -> None:
        state = {
            "pid": os.getpid(),
            "identity": kernel.read_identity(os.getpid()),
            "version": supervisor.__version__,
            "host": self.config.host,
            "port": self.config.port,
            "multiproc_dir": str(self.config.multiproc_dir),
            "denied": list(self.config.denied),
        }
        try:
            self.run_dir.write_state(SUPERVISOR, state)
        except OSError as error:
            raise PtsupError(
                f"cannot write to the run directory {self.run_dir.path}: {error.strerror}",
                "make room there, or choose another with --run-dir",
            ) from None

    async def _keep_published(self) -> None:
        """Write our part of the page when something has changed: at once, and then not often."""
        while True:
            await self._news.wait()
            self._news.clear()
            self._publish()
            await asyncio.sleep(PUBLISH_SECONDS)
            if self._publishing_failed:
                self._news.set()

    def _publish(self) -> None:
        if self.fleet.phase is Phase.ENDED:  # it is cleaned away already
            return
        text = render_exposition(
            self.fleet,
            self.findings,
            pid=os.getpid(),
            identity=kernel.read_identity(os.getpid()) or "unknown",
        )
        if text == self._published:
            return
        try:
            self.run_dir.write_metrics(text)
        except OSError as error:
            if not self._publishing_failed:
                log.warning("cannot write our part of the page: %s", error)
            self._publishing_failed = True
        else:
            self._published, self._publishing_failed = text, False

    def _clean(self) -> None:
        """Leave nothing behind: the port, the shards (unless kept), the state."""
        for _ in self._end_escaped():
            time.sleep(LOOK_AGAIN_SECONDS)  # nothing else runs any more, so this may wait
        self.listener.close()
        try:
            if not self.keep_shards:
                clear_and_say(self.config.multiproc_dir, log.warning)
        except (OSError, ValueError) as error:
            self.error = PtsupError(f"cannot clear {self.config.multiproc_dir}: {error}")
        try:
            self.run_dir.clean()
        except PtsupError as error:
            self.error = error


def _peek(child: spawn.Child | Adoptee) -> kernel.Exit | None:
    return child.peek() if isinstance(child, Adoptee) else spawn.peek(child)
