"""Words for events and actions, and a model of the kernel under them, for the core's tests.

A play is a script of events. The model answers actions as the shell does and refuses what no
kernel would forgive: a second child beside the first, a signal to nobody, a reap too early.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from signal import Signals
from typing import TYPE_CHECKING

from supervisor.events import (
    Action,
    Adopted,
    Claim,
    Claimed,
    ClaimFailed,
    DeadlinePassed,
    Exited,
    Finish,
    GroupGone,
    Kill,
    ProcessEvent,
    Ready,
    Reap,
    Reaped,
    Restart,
    SignalGroup,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    Stop,
    Unhealthy,
)
from supervisor.lifecycle import CLAIM_TRIES
from supervisor.process import ENDED, Process, State, Target

if TYPE_CHECKING:
    from collections.abc import Callable


def parse_event(word: str, name: str, incarnation: int, pid: int = 8) -> ProcessEvent:
    """Read an event: `stop`, `stop(1)`, `exited(0)`; `left` is an exit whose group remains."""
    kind, _, argument = word.rstrip(")").partition("(")
    build: dict[str, Callable[[], ProcessEvent]] = {
        "start": lambda: Start(name),
        "stop": lambda: Stop(name, float(argument) if argument else None),
        "restart": lambda: Restart(name),
        "kill": lambda: Kill(name),
        "deadline": lambda: DeadlinePassed(name),
        "spawned": lambda: Spawned(name, incarnation, pid),
        "adopted": lambda: Adopted(name, incarnation, pid),
        "lost": lambda: Adopted(name, incarnation, None),
        "spawn-failed": lambda: SpawnFailed(name, incarnation, "busy", final=False),
        "spawn-refused": lambda: SpawnFailed(name, incarnation, "missing", final=True),
        "ready": lambda: Ready(name, incarnation),
        "unhealthy": lambda: Unhealthy(name, incarnation, "hung"),
        "exited": lambda: Exited(name, incarnation, parse_returncode(argument), remains=False),
        "left": lambda: Exited(name, incarnation, parse_returncode(argument), remains=True),
        "claimed": lambda: Claimed(name, incarnation),
        "claim-failed": lambda: ClaimFailed(name, incarnation, "full"),
        "gone": lambda: GroupGone(name, incarnation),
        "reaped": lambda: Reaped(name, incarnation, parse_returncode(argument)),
    }
    return build[kind]()


def parse_returncode(text: str) -> int | None:
    """Read a returncode as in subprocess; `unknown` is None."""
    return None if text == "unknown" else int(text)


def render_action(action: Action) -> str:
    """Write an action as a word: SPAWN TERM KILL CLAIM REAP DRAIN FINISH."""
    match action:
        case SignalGroup(_, _, number):
            return Signals(number).name.removeprefix("SIG")
        case _:
            return type(action).__name__.upper()


@dataclass(slots=True)
class Child:
    """One incarnation, from its spawn to its reap."""

    incarnation: int
    pid: int
    returncode: int | None = None
    dead: bool = False
    remains: bool = False
    claimed: bool = False
    claim_failures: int = 0
    killed: bool = False


@dataclass(slots=True)
class Kernel:
    """Who lives, who is a zombie, and which spawns wait for their answer, by name."""

    children: dict[str, Child] = field(default_factory=dict)
    spawning: dict[str, int] = field(default_factory=dict)
    finished: bool = False
    full: bool = False  # the disk: no claim can be made
    last_pid: int = 100

    def perform(self, action: Action) -> ProcessEvent | None:
        """Do as told, or say why no shell could; a claim and a reap are answered at once."""
        assert not self.finished, f"{action} after the end"
        match action:
            case Spawn(name, incarnation):
                assert name not in self.children, f"{action} beside {self.children.get(name)}"
                assert name not in self.spawning, f"{action} while another spawn is under way"
                self.spawning[name] = incarnation
            case SignalGroup(name, incarnation, number):
                child = self._find(name, incarnation, action)
                assert not child.dead or child.remains, f"{action} to nobody"
                child.killed |= number == Signals.SIGKILL
            case Claim(name, incarnation, pid):
                child = self._find(name, incarnation, action)
                assert pid == child.pid, f"{action} of another's pid"
                assert child.dead, f"{action} of the living"
                assert not child.claimed, f"{action} for the second time"
                child.claimed = not self.full
                child.claim_failures += self.full
                assert child.claim_failures <= CLAIM_TRIES, f"{action} again and again"
                return parse_event("claim-failed" if self.full else "claimed", name, incarnation)
            case Reap(name, incarnation):
                child = self._find(name, incarnation, action)
                tried = child.claim_failures == CLAIM_TRIES
                assert child.claimed or tried, f"{action} before its shards are claimed"
                assert not child.remains, f"{action} while its group lives"
                del self.children[name]
                return Reaped(name, incarnation, child.returncode)
            case Finish():
                assert not self.children, f"{action} while {self.children} live"
                assert not self.spawning, f"{action} while {self.spawning} come"
                self.finished = True
            case _:
                pass
        return None

    def answer(self, word: str, name: str) -> ProcessEvent:
        """Answer a spawn: `spawned`, `spawn-failed` or `spawn-refused`."""
        incarnation = self.spawning.pop(name)
        self.last_pid += 1
        if word == "spawned":
            self.children[name] = Child(incarnation, self.last_pid)
        return parse_event(word, name, incarnation, self.last_pid)

    def end(self, word: str, name: str) -> ProcessEvent:
        """Let a leader die (`exited`, `left`), or what it left of its group (`gone`)."""
        child = self.children[name]
        event = parse_event(word, name, child.incarnation)
        if isinstance(event, Exited):
            assert not child.dead, f"{event} of a zombie"
            child.dead, child.remains, child.returncode = True, event.remains, event.returncode
        else:
            assert child.remains, f"{event} without a group"
            child.remains = False
        return event

    def _find(self, name: str, incarnation: int, action: Action) -> Child:
        child = self.children.get(name)
        if child is None or child.incarnation != incarnation:
            raise AssertionError(f"{action}, but there is {child}")
        return child

    def check(self, process: Process) -> None:
        """Compare what the core holds for true with what is."""
        child, spawning = self.children.get(process.name), process.name in self.spawning
        assert process.pid == (child.pid if child else None), f"the pid of {process}, {child}"
        assert process.dead == bool(child and child.dead), f"the death of {process}, {child}"
        assert process.pid is None or process.incarnation > 0, f"{process} was never spawned"
        match process.state:
            case State.STARTING:
                right = process.target is Target.UP and (spawning or child is not None)
            case State.RUNNING:
                right = process.target is Target.UP and process.deadline is None
                right = right and child is not None and not child.dead
            case State.STOPPING | State.KILLING:
                right = process.deadline is not None and process.ending is not None
                right = right and (spawning or child is not None)
            case State.BACKOFF:
                right = process.target is Target.UP and process.deadline is not None
                right = right and child is None and not spawning
            case _:
                right = process.state in ENDED and process.deadline is None
                right = right and child is None and not spawning
        assert right, f"{process} with {child}"
