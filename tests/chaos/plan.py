"""What a chaos run will do, all of it from its seed. Pure: the same seed gives the same plan.

Times are seconds, of sessions and workers since their birth. When exactly things happen no plan
can say; in which order, to whom and how, this one does.
"""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much chaos. `seconds` is the least; it goes on until the other figures are reached."""

    seconds: float
    sessions: int  # alive at a time, if they come as fast as they go
    wanted: int  # alive at least, but for moments
    always: int  # of them with restart = always
    deaths: int  # of sessions
    kills: int  # of metricsd
    stops: int
    scrapers: int
    pace: float = 1.0  # how long sessions live, as a part of what is usual


LONG = Scale(
    seconds=120,
    pace=2.0,
    sessions=28,
    wanted=20,
    always=4,
    deaths=310,
    kills=54,
    stops=6,
    scrapers=8,
)
SHORT = Scale(
    seconds=11, sessions=9, wanted=5, always=2, deaths=24, kills=5, stops=1, scrapers=4, pace=0.5
)


def find_scale(seconds: float) -> Scale:
    """Scale the long form to another duration: as many sessions, blows by the second."""
    part = seconds / LONG.seconds
    return Scale(
        seconds=seconds,
        sessions=LONG.sessions,
        wanted=LONG.wanted,
        always=LONG.always,
        deaths=round(LONG.deaths * part),
        kills=round(LONG.kills * part),
        stops=round(LONG.stops * part),
        scrapers=LONG.scrapers,
        pace=LONG.pace,
    )


class End(StrEnum):
    """How a process ends."""

    EXIT = "exit"
    RAISE = "raise"
    KILL = "kill"  # by us, with -9
    STILLBORN = "stillborn"  # killed with -9 about when it creates its shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A fork of a session's leader."""

    role: str
    seed: int
    fork_after_seconds: float
    lives_seconds: float
    end: End
    setsid: bool
    linger_seconds: float  # how long it counts on after TERM


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session and what becomes of it."""

    name: str
    seed: int
    end: End
    lives_seconds: float
    threads: int = 1
    workers: tuple[Worker, ...] = ()


class Aim(StrEnum):
    """What metricsd is waited for to do before it is struck."""

    NOTHING = "any moment"
    CLAIM = "a claim is there"
    WRITING = "a base is being written"
    PUBLISHED = "a base was published"
    REMOVING = "claims are being removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """A signal to metricsd: after a pause, then when it does what is aimed at, then a moment."""

    number: int
    signal: signal.Signals
    pause_seconds: float
    aim: Aim
    moment_seconds: float


def plan_session(seed: int, index: int, pace: float = 1.0) -> Session:
    """Plan the session with this index, of those that are not restarted."""
    rng = random.Random(f"{seed}/session/{index}")
    name = f"s{index:03}"
    own = rng.randrange(1 << 30)
    if rng.random() < 0.12:
        # From before its first shard to after its first increments.
        lives = rng.uniform(0, 0.003)
        return Session(name=name, seed=own, end=End.STILLBORN, lives_seconds=lives)
    lives = pace * rng.choice([rng.uniform(0.2, 3), rng.uniform(2, 10), rng.uniform(6, 22)])
    end = rng.choices([End.EXIT, End.RAISE, End.KILL], [3, 2, 5])[0]
    if rng.random() < 0.35:
        workers = tuple(
            _plan_worker(rng, number, lives, pace) for number in range(rng.randint(1, 3))
        )
        return Session(name=name, seed=own, end=end, lives_seconds=lives, workers=workers)
    return Session(
        name=name, seed=own, end=end, lives_seconds=lives, threads=rng.choice([1, 1, 1, 2])
    )


def _plan_worker(rng: random.Random, number: int, leader_lives: float, pace: float) -> Worker:
    fork_after = rng.uniform(0.05, 0.7) * leader_lives
    left = leader_lives - fork_after
    outlives = rng.random() < 0.6
    lives = left + pace * rng.uniform(0.5, 5) if outlives else left * rng.uniform(0, 0.7)
    return Worker(
        role=f"w{number}",
        seed=rng.randrange(1 << 30),
        fork_after_seconds=fork_after,
        lives_seconds=lives,
        end=rng.choice([End.EXIT, End.KILL]),
        setsid=outlives and rng.random() < 0.5,
        linger_seconds=pace * rng.uniform(0.2, 4),
    )


def plan_always(seed: int, index: int) -> Session:
    """Plan a session that is restarted for ever: it goes on until it is killed."""
    rng = random.Random(f"{seed}/always/{index}")
    own = rng.randrange(1 << 30)
    return Session(name=f"a{index}", seed=own, end=End.KILL, lives_seconds=0)


def plan_incarnation(seed: int, name: str, incarnation: int) -> float:
    """Say how long an incarnation of such a session lives.

    Every other one is past the supervisor's stable period, or it would give up one day.
    """
    rng = random.Random(f"{seed}/{name}/{incarnation}")
    return rng.uniform(0.3, 5) if incarnation % 2 else rng.uniform(10.5, 14)


def plan_blows(seed: int, kills: int, stops: int, seconds: float) -> list[Blow]:
    """Plan what is done to metricsd within so many seconds.

    A stop takes about three: until it is noticed, and killed. Some blows follow the one before
    at once, when the next metricsd is still coming up.
    """
    rng = random.Random(f"{seed}/blows")
    signals = [signal.SIGKILL] * kills + [signal.SIGSTOP] * stops
    rng.shuffle(signals)
    mean = max(0.1, (0.9 * seconds - 3 * stops) / len(signals) - 0.3)
    return [
        _plan_blow(rng, number, which, rng.uniform(0.2, 2) * mean)
        for number, which in enumerate(signals, 1)
    ]


def _plan_blow(rng: random.Random, number: int, which: signal.Signals, pause: float) -> Blow:
    aim = rng.choice([Aim.NOTHING, Aim.NOTHING, *Aim, Aim.REMOVING])
    if aim is Aim.REMOVING:  # the first fold of a new metricsd has the most to remove
        pause, moment = rng.uniform(0, 0.3), 0.0
    else:
        moment = rng.uniform(0, 0.004)
    return Blow(number=number, signal=which, pause_seconds=pause, aim=aim, moment_seconds=moment)
