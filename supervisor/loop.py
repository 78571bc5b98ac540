"""The loop: I/O becomes events, the fleet decides, its actions become I/O.

It decides nothing itself, and does little: spawner, deaths, journal and their like do. One
thread, one wait point, one timeout (the fleet's earliest deadline).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, assert_never

from supervisor.adopt import adopt
from supervisor.adoption import Former, build_process, serves_otherwise
from supervisor.audit import Audit, Inherited, build_settings
from supervisor.children import Children
from supervisor.claims import SWEEP_SECONDS, Claims
from supervisor.config import METRICSD
from supervisor.crew import Roster, find_logs, find_outdated, find_unready
from supervisor.deaths import Deaths
from supervisor.errors import PtsupError
from supervisor.events import (
    Action,
    Add,
    Batch,
    Claim,
    Drain,
    Event,
    Exited,
    Finish,
    Forget,
    GroupGone,
    KillAll,
    ProcessEvent,
    Reap,
    Reaped,
    Remove,
    Restart,
    SignalGroup,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    Tick,
    Update,
)
from supervisor.fleet import Fleet, Phase, is_opened, is_settled
from supervisor.journal import Journal
from supervisor.logs import read_tail
from supervisor.look.everything import ConfigFile
from supervisor.probe import PROBE_SECONDS, Prober
from supervisor.process import State, Target
from supervisor.publisher import Publisher
from supervisor.readiness import ReadinessProber
from supervisor.rotator import Rotator
from supervisor.rounds import Rounds
from supervisor.spawner import Spawner
from supervisor.step import build_fleet, step
from supervisor.tasks import Tasks
from supervisor.trouble import Trouble
from supervisor.waiters import Waiters
from supervisor.words import render_exit
from telemetry.clearing import clear_and_say
from telemetry.mode import render_address

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from supervisor.admission import Admitted
    from supervisor.config import Config
    from supervisor.drift import Finding
    from supervisor.process import Process
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")

# How long metricsd may take to answer the first scrape of all before `start` gives up.
OPENING_LIMIT_SECONDS: Final = 30.0
# A group whose members are not our children raises no SIGCHLD when they die: look again.
LOOK_AGAIN_SECONDS: Final = 0.1
# A hint may get lost; the truth is looked at anyway, at each child after the longer time.
LOOK_ANYWAY_SECONDS: Final = 5.0
DOUBT_SECONDS: Final = 60.0
# However many are to be spawned, whatever else happens is looked at after so many: some 30 ms.
SPAWNS_AT_ONCE: Final = 100


@dataclass(slots=True, kw_only=True)
class Loop:
    """One supervisor at work, from its first spawn until nothing runs any more."""

    config: Config
    run_dir: RunDir
    listener: socket.socket
    former: Sequence[Former] = ()  # what a supervisor that died has left us
    exit_when_done: bool = False
    keep_shards: bool = False
    members: dict[str, Admitted] = field(default_factory=dict)
    inherited: Inherited = field(default_factory=Inherited)
    descriptors: int | None = None
    rounds: Rounds = field(default_factory=lambda: Rounds(PROBE_SECONDS))
    error: PtsupError | None = None

    audit: Audit = field(init=False)
    fleet: Fleet = field(init=False)
    prober: Prober = field(init=False)
    claims: Claims = field(init=False)
    deaths: Deaths = field(init=False)
    children: Children = field(default_factory=Children)
    journal: Journal = field(init=False)
    publisher: Publisher = field(init=False)
    roster: Roster = field(init=False)
    rotator: Rotator = field(init=False)
    spawner: Spawner = field(init=False)
    readiness: ReadinessProber = field(init=False)

    _inbox: deque[Event] = field(default_factory=deque)
    _wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    _look: bool = False
    _claims: list[Claim] = field(default_factory=list)
    _spawns: deque[Spawn] = field(default_factory=deque)
    _changed: bool = False
    _waiters: Waiters = field(default_factory=Waiters)
    _tasks: Tasks = field(init=False)
    _trouble: Trouble = field(default_factory=lambda: Trouble("cannot look for exits"))

    def __post_init__(self) -> None:
        """Begin with metricsd and whatever a former supervisor left; sessions are added.

        Here all parts are put together: who looks again and again is one of the rounds, which
        come along with the probes, as the audit does.
        """
        self._tasks = Tasks(self._fail)
        now = time.monotonic()
        given = {name: member.spec for name, member in self.members.items()}
        former = [build_process(each, now, given.get(each.name)) for each in self.former]
        self.fleet = build_fleet((), exit_when_done=self.exit_when_done, former=former)
        self.prober = Prober(
            host=self.config.host,
            port=self.config.port,
            find_metricsd=lambda: self.fleet.metricsd,
            post=self.post,
            after=self._beat,
        )
        self.publisher = Publisher(self.run_dir, lambda: self.fleet, self.list_findings)
        self.claims = Claims(
            directory=self.config.multiproc_dir,
            find_own=self.children.find_own,
            note_change=self.publisher.note,
        )
        self.deaths = Deaths(
            run_dir=self.run_dir, children=self.children, claims=self.claims, hint=self._hint
        )
        numbers = {each.name: each.record.get("number", 0) for each in self.former}
        self.journal = Journal(
            run_dir=self.run_dir,
            members=self.members,
            children=self.children,
            find=self._find,
            numbers=numbers,
        )
        self.spawner = Spawner(
            config=self.config,
            run_dir=self.run_dir,
            listener=self.listener,
            members=self.members,
            children=self.children,
            journal=self.journal,
            descriptors=self.descriptors,
        )
        self.roster = Roster(self.members, self.children, self.config.multiproc_dir)
        self.audit = Audit(
            directory=self.config.multiproc_dir,
            address=render_address(self.config.host, self.config.port),
            port=self.config.port,
            settings=build_settings(self.config),
            claims=self.claims,
            find_crew=lambda: self.roster.find_crew(self.fleet.sessions),
            find_planned=lambda: self.roster.find_planned(self.fleet.sessions),
            find_health=lambda: self.prober.health,
            config_files=_list_config_files(self.config),
            find_outdated=lambda: find_outdated(self.fleet, self.children, self.members),
            note_change=self.publisher.note,
            inherited=self.inherited,
        )
        self.prober.note_health = self.audit.stir
        self.rotator = Rotator(
            directory=self.run_dir.logs,
            find_logs=lambda: find_logs(self.config, self.members),
            find_writing=self.children.present.keys,
            failed=self.audit.unrotatable,
            note_change=self.publisher.note,
        )
        self.readiness = ReadinessProber(lambda: find_unready(self.fleet, self.members), self.post)
        self.rounds.every(LOOK_ANYWAY_SECONDS, self.deaths.look_anyway)
        self.rounds.every(DOUBT_SECONDS, self.deaths.doubt)
        self.rounds.every(SWEEP_SECONDS, self.claims.sweep_in_turn)
        self.rounds.every(LOOK_ANYWAY_SECONDS, self._write_down)  # what could not be at its time

    # -- From the first to the last turn --------------------------------------------------------

    def begin(self) -> None:
        """Go on with whom a former supervisor left; before anybody is added, and before `run`."""
        self.deaths.begin()
        self.journal.write_own(self.config)
        for event in adopt(
            self.former, children=self.children, deaths=self.deaths, run_dir=self.run_dir
        ):
            self._take(event)
        if serves_otherwise(self.former, self.config.metricsd_options):  # scrapes wait meanwhile
            self._take(Restart(METRICSD))

    async def run(self) -> None:
        """Run until nothing runs any more, then clean up; raises what stopped the start."""
        self.publisher.publish()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._hint)
        # Hundreds may die while we do something else: what no longer fits says nothing new.
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)
        self.background(self.prober.run())
        self.background(self.readiness.run())
        self.background(self.publisher.run())
        self.background(self.rotator.run())
        self.background(self._open())
        self.post(Start(METRICSD))  # nothing is done if it was adopted
        try:
            while self.fleet.phase is not Phase.ENDED:
                self._take(*await self._next_events())
                self._spawn_next()
                self._write_down()
                if self._changed:
                    self._changed = False
                    self._waiters.tell()
        finally:
            loop.remove_signal_handler(signal.SIGCHLD)
            self.rounds.close()
            self._tasks.end()
        if self.error is not None:
            raise self.error

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the loop; it ends with it."""
        self._tasks.begin(work)

    def _fail(self, failure: BaseException) -> None:
        """End it all: without its probes or its drain nothing would end."""
        self.error = PtsupError(f"the supervisor failed: {failure!r}")
        self.post(KillAll())

    # -- One turn -------------------------------------------------------------------------------

    def _hint(self) -> None:
        self._look = True
        self._wakeup.set()

    async def _next_events(self) -> list[Event]:
        if self._inbox or self._look or self._spawns:
            await asyncio.sleep(0)  # everybody else has a turn, too
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._find_timeout_seconds()):
                    await self._wakeup.wait()
        self._wakeup.clear()
        events = list(self._inbox)
        self._inbox.clear()
        if self._look or self.deaths.waiting:
            self._look = False
            if exits := self._find_exits():
                events.append(Batch(tuple(exits)))
        return [*events, Tick()]

    def _find_exits(self) -> list[Exited | GroupGone]:
        exits: list[Exited | GroupGone] = []
        try:
            exits = self.deaths.find_exits()
            self.deaths.reap_strangers()
            self._trouble.clear()
        except OSError as error:  # out of descriptors, say: nothing is lost by looking later
            self._trouble.note(error)
        return exits

    def _find_timeout_seconds(self) -> float | None:
        timeouts = [LOOK_AGAIN_SECONDS] if self.deaths.waiting else []
        if self.fleet.deadline is not None:
            timeouts.append(max(0.0, self.fleet.deadline - time.monotonic()))
        return min(timeouts, default=None)

    def post(self, event: Event) -> None:
        """Hand in an event to be taken at the next turn."""
        self._inbox.append(event)
        self._wakeup.set()

    def take(self, event: Event) -> None:
        """Take an event at once: when this returns, what could be done about it is done."""
        try:
            self._take(event)
            self._write_down()
        finally:
            self._wakeup.set()  # the loop may wait for a deadline that is no longer the first

    def _take(self, *events: Event) -> None:
        """Take events, and what is fed back by what they lead to; only spawns are left to do."""
        for event in events:
            self._decide(event)
        while self._claims:
            # How somebody ended is written down before its pid is given back, and it is lost.
            self._write_down()
            # Asked for again where so many died that it took longer than a claim is waited for.
            claims, self._claims = dict.fromkeys(self._claims), []
            told = [self.deaths.claim(each.name, each.incarnation, each.pid) for each in claims]
            self._decide(Batch(tuple(told)))

    def _decide(self, event: Event) -> None:
        """Let the fleet decide on an event, and on what its actions feed back."""
        events = deque([event])
        while events:
            before = self.fleet
            self.fleet, actions = step(before, events.popleft(), time.monotonic())
            self._note_changes(before)
            if fed := [event for action in actions for event in self._perform(action)]:
                events.append(Batch(tuple(fed)))

    def _spawn_next(self) -> None:
        """Spawn the next of those whose turn it is, if they are still to be."""
        count = min(SPAWNS_AT_ONCE, len(self._spawns))
        asked = [self._spawns.popleft() for _ in range(count)]
        wanted: list[Process] = []
        told: list[Spawned | SpawnFailed] = []
        for spawn in asked:
            process = self.fleet.find(spawn.name)
            if process is None or process.incarnation != spawn.incarnation:
                continue
            if process.target is Target.DOWN:
                told.append(SpawnFailed(spawn.name, spawn.incarnation, "", final=False))
            else:
                wanted.append(process)
        told += self.spawner.spawn(wanted)
        if told:
            self._look = True  # one may die before its SIGCHLD could mean anything to us
            self._take(Batch(tuple(told)))
            self.readiness.wake()  # it finds only who was spawned

    def _find(self, name: str) -> Process | None:
        return self.fleet.find(name)

    def _write_down(self) -> None:
        if self.fleet.phase is not Phase.ENDED:  # all of it is cleaned away then
            self.spawner.identify()
            self.journal.write()

    def _beat(self, now: float) -> None:
        """Do all that is done again and again, at the one wakeup that there is for it."""
        self.rounds.turn(now)
        if self.audit.is_due(now) and self.fleet.phase is not Phase.OPENING:
            work = self.audit.turn(now)
            if work is not None:
                self.background(work)

    def _note_changes(self, before: Fleet) -> None:
        if self.fleet is not before:
            self._changed = True
            self.publisher.note()
            self._note_metricsd(before.metricsd)
        self.journal.note_changes(before, self.fleet)
        if before.phase is Phase.OPENING and self.fleet.phase is Phase.SERVING:
            log.info("metricsd answers on %s", self.prober.url)

    def _note_metricsd(self, before: Process) -> None:
        metricsd = self.fleet.metricsd
        if metricsd.state is before.state:
            return
        if metricsd.state is State.RUNNING:
            self.audit.note_metricsd(None)
        elif before.state is State.RUNNING and self.fleet.phase is Phase.SERVING:
            ended = f"it ended ({render_exit(metricsd.returncode)})"
            self.audit.note_metricsd(metricsd.reason or ended)

    def _perform(self, action: Action) -> Iterator[ProcessEvent]:
        match action:
            case Spawn(name, _) if name == METRICSD:
                self._spawns.appendleft(action)
                self.prober.wake()
            case Spawn():
                self._spawns.append(action)
            case Claim():
                self._claims.append(action)
            case SignalGroup(name, _, number):
                self.deaths.signal(name, number)
            case Reap(name, incarnation):
                process = self.fleet.find(name)
                told = None if process is None else process.returncode
                yield Reaped(name, incarnation, self.deaths.reap(name, told))
            case Forget(name):
                self._forget(name)
            case Drain():
                self.background(self._drain())
            case Finish():
                self._clean()
            case _:
                assert_never(action)

    # -- For who asks -----------------------------------------------------------------------------

    def list_findings(self) -> tuple[Finding, ...]:
        """List all that is not as it should be, and for a while what was mended."""
        return self.audit.collect()

    def add(self, sessions: Iterable[Admitted]) -> None:
        """Take in sessions and exporters that were admitted."""
        sessions = tuple(sessions)
        self.members.update({member.spec.name: member for member in sessions})
        self.take(Add(tuple(member.spec for member in sessions)))

    def update(self, sessions: Iterable[Admitted]) -> None:
        """Have the next incarnations of those who are there be as admitted now."""
        sessions = tuple(sessions)
        self.members.update({member.spec.name: member for member in sessions})
        self.take(Update(tuple(member.spec for member in sessions)))

    def reconfigure(self, config: Config) -> None:
        """Go by other settings from here on; host, port and shard directory are the same."""
        self.config = self.spawner.config = config
        self.audit.reconfigure(build_settings(config), _list_config_files(config))
        try:
            self.journal.write_own(config)
        except PtsupError as error:  # the next supervisor goes by what was written before
            log.warning("%s", error.message)

    def remove(self, names: Iterable[str]) -> None:
        """Stop these, and then know of them no more."""
        self.take(Remove(tuple(names)))

    def _forget(self, name: str) -> None:
        self.members.pop(name, None)
        self.children.origins.pop(name, None)
        self.journal.forget(name)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the fleet fulfils a condition."""
        await self._waiters.wait_until(condition)

    @property
    def opened(self) -> bool:
        """Whether metricsd has answered and everybody was spawned, or could not be."""
        return self.fleet.phase is Phase.SERVING and all(
            is_opened(self.fleet, process) for process in self.fleet.members
        )

    @property
    def settled(self) -> bool:
        """Whether everybody is up and ready, or there is nothing to wait for."""
        return not self._spawns and not self.find_unsettled()

    def find_unsettled(self) -> list[str]:
        """Find who is not up and ready yet, but may come to be by itself."""
        return [p.name for p in self.fleet.members if not is_settled(self.fleet, p)]

    def find_stopping(self) -> list[tuple[str, float]]:
        """Find who is stopping, and the seconds each has left before KILL."""
        now = time.monotonic()
        return [
            (process.name, process.deadline - now)
            for process in self.fleet.members
            if process.state is State.STOPPING and process.deadline is not None
        ]

    # -- The beginning and the end ----------------------------------------------------------------

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

    async def _drain(self) -> None:
        """Let the last totals be scraped: those of everybody, wherever it hid."""
        try:
            for _ in self.deaths.end_escaped():
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
        except OSError as error:
            log.warning("cannot look for escaped workers: %s", error)
        await self.claims.sweep()
        await self.prober.drain()

    def _clean(self) -> None:
        """Leave nothing behind: the port, the shards (unless kept), the state."""
        for _ in self.deaths.end_escaped():
            time.sleep(LOOK_AGAIN_SECONDS)  # nothing else runs any more, so this may wait
        self.deaths.reserve.spend()  # there is nothing more to keep it for
        self.listener.close()
        try:
            if not self.keep_shards:
                clear_and_say(self.config.multiproc_dir, log.warning)
        except ValueError as error:
            self.error = PtsupError(str(error))
        except OSError as error:
            self.error = PtsupError(f"cannot clear {self.config.multiproc_dir}: {error}")
        try:
            self.run_dir.clean()
        except PtsupError as error:
            self.error = error


def _list_config_files(config: Config) -> tuple[ConfigFile, ...]:
    """List the files a reload would read; none where it could not."""
    marks = config.file_marks if config.file else {}
    return tuple(ConfigFile(path, mark) for path, mark in marks.items())
