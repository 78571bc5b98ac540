"""Who comes up first, who goes down first, and that the end comes exactly once; as scripts."""

from __future__ import annotations

import itertools
from collections import UserDict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from core.plays import Child, Kernel, parse_event, render_action
from supervisor.config import METRICSD, Policy, RestartWhen, Role, SessionSpec
from supervisor.events import (
    Add,
    Batch,
    Drained,
    Event,
    Exited,
    KillAll,
    Remove,
    Restart,
    Spawned,
    SpawnFailed,
    Stop,
    StopAll,
    Tick,
    Update,
)
from supervisor.fleet import (
    RETRIES_AT_ONCE,
    RETRIES_PER_SECOND,
    Fleet,
    Phase,
    find_reason,
    find_retry_at,
    is_opened,
    is_settled,
    waits,
)
from supervisor.process import ENDED, Process, State, Target
from supervisor.step import build_fleet, step

if TYPE_CHECKING:
    from collections.abc import Sequence, ValuesView

    from supervisor.events import ProcessEvent

ON_FAILURE: Final = Policy(restart=RestartWhen.ON_FAILURE, stop_timeout_seconds=5)
NO: Final = Policy(stop_timeout_seconds=9)


class Play:
    """A fleet over a model of the kernel that answers every spawn and reap at once."""

    def __init__(self, *names: str, exit_when_done: bool = False) -> None:
        self.fleet = build_fleet(build_specs(names), exit_when_done=exit_when_done)
        self.kernel = Kernel()
        self.now = 0.0
        self.refused: set[str] = set()  # whose spawn fails

    def tell(self, line: str) -> list[str]:
        """Let `EVENT [NAME...]` happen; give back what was asked for, as `ACTION [NAME]`."""
        word, *names = line.split()
        match word.partition("(")[0]:
            case "add":
                return self.take(Add(build_specs(names)))
            case "update":
                return self.take(Update(build_specs(names)))
            case "remove":
                return self.take(Remove(tuple(names)))
            case "stop-all":
                return self.take(StopAll())
            case "kill-all":
                return self.take(KillAll())
            case "drained":
                return self.take(Drained())
            case "tick":
                self.now += float(word[5:-1])
                return self.take(Tick())
            case "exited" | "left" | "gone":
                return self.take(self.kernel.end(word, names[0]))
            case _:
                process = self.fleet.find(names[0])
                incarnation = process.incarnation if process else 0
                return self.take(parse_event(word, names[0], incarnation))

    def take(self, event: Event) -> list[str]:
        before = {process.name: process for process in self.fleet.processes}
        self.fleet, actions = step(self.fleet, event, self.now)
        check_indexes(self.fleet, before)
        words = []
        for action in actions:
            name = getattr(action, "name", "")
            words.append(f"{render_action(action)} {name}".strip())
            answer: ProcessEvent | None = self.kernel.perform(action)
            if name in self.kernel.spawning:
                how = "spawn-refused" if name in self.refused else "spawned"
                answer = self.kernel.answer(how, name)
            words += self.take(answer) if answer else []
        return words


def check_indexes(fleet: Fleet, before: dict[str, Process]) -> None:
    """Hold what a fleet has indexed against what a look at everybody finds."""
    everybody = {process.name: process for process in fleet.processes}
    members = {process.name: process for process in fleet.members}
    changed = {name for name, process in everybody.items() if before.get(name) is not process}
    assert set(fleet.timed) == {n for n, p in everybody.items() if p.deadline is not None}
    assert set(fleet.waiting) == {n for n, p in members.items() if waits(p)}
    assert set(fleet.living) == {n for n, p in fleet.sessions.items() if p.state not in ENDED}
    assert changed <= set(fleet.touched)


def build_specs(names: Sequence[str]) -> tuple[SessionSpec, ...]:
    """Build sessions: `r…` is restarted on failure, `q…` has a readiness, `b:a` waits for a.

    `x…` is an exporter.
    """
    return tuple(map(build_spec, names))


def build_spec(text: str) -> SessionSpec:
    name, *after = text.split(":")
    policies = {"r": ON_FAILURE, "x": ON_FAILURE, "q": replace(NO, start_timeout_seconds=3)}
    return SessionSpec(
        name=name,
        command=("true",),
        cwd=Path("/"),
        policy=policies.get(name[0], NO),
        role=Role.EXPORTER if name[0] == "x" else Role.SESSION,
        start_after=tuple(after),
    )


def play(script: str, *names: str, exit_when_done: bool = False) -> Play:
    """Play lines of `EVENT [NAME...] > ACTION [NAME], ... > PHASE`."""
    scene = Play(*names, exit_when_done=exit_when_done)
    lines = [tuple(map(str.strip, line.split(">"))) for line in script.splitlines() if line.strip()]
    played = [(line, ", ".join(scene.tell(line)), str(scene.fleet.phase)) for line, *_ in lines]
    assert played == lines
    return scene


# -- Coming up -----------------------------------------------------------------------------------

OPENED: Final = """
    start metricsd        > SPAWN metricsd                 > opening
    ready metricsd        > SPAWN a, SPAWN b               > serving
"""


def test_metricsd_is_first_and_the_sessions_wait_until_it_answers() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        tick(1)               >                                > opening
        exited(1) metricsd    > CLAIM metricsd, REAP metricsd   > opening
        tick(1)               > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN a, SPAWN b               > serving
        """,
        "a",
        "b",
    )


def test_sessions_added_while_it_opens_wait_with_the_others() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        add b                 >                                > opening
        ready metricsd        > SPAWN a, SPAWN b               > serving
        """,
        "a",
    )


def test_a_session_asked_for_while_it_opens_waits_too() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        restart a             >                                > opening
        start b               >                                > opening
        ready metricsd        > SPAWN a, SPAWN b               > serving
        """,
        "a",
        "b",
    )


def test_a_session_stopped_while_it_opens_is_not_started_unless_asked_for_again() -> None:
    scene = play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        stop a                >                                > opening
        stop b                >                                > opening
        start b               >                                > opening
        ready metricsd        > SPAWN b                        > serving
        """,
        "a",
        "b",
    )
    assert scene.fleet.sessions["a"].state is State.STOPPED


def test_a_restart_of_one_that_lives_while_it_opens_is_done_and_of_one_that_ended_waits() -> None:
    scene = Play()
    living = Process(name="a", policy=NO, target=Target.UP, incarnation=1)
    ended = Process(name="b", policy=NO, target=Target.UP, incarnation=1, state=State.EXITED)
    scene.fleet = build_fleet((), exit_when_done=False, former=[living, ended])
    scene.kernel.children["a"] = Child(1, 8)
    played = [
        (line, ", ".join(scene.tell(line)))
        for line in (
            *("adopted a", "start metricsd", "restart a", "restart b"),
            *("exited(-15) a", "ready metricsd"),
        )
    ]
    assert played == [
        ("adopted a", ""),
        ("start metricsd", "SPAWN metricsd"),
        ("restart a", "TERM a"),
        ("restart b", ""),
        ("exited(-15) a", "CLAIM a, REAP a, SPAWN a"),
        ("ready metricsd", "SPAWN b"),
    ]


def test_sessions_added_while_it_serves_start_at_once() -> None:
    play(
        OPENED
        + """
        add c d               > SPAWN c, SPAWN d               > serving
        """,
        "a",
        "b",
    )


def test_a_session_is_started_and_restarted_when_asked_while_it_serves() -> None:
    play(
        OPENED
        + """
        restart a             > TERM a                         > serving
        exited(0) a           > CLAIM a, REAP a, SPAWN a        > serving
        exited(0) b           > CLAIM b, REAP b                 > serving
        start b               > SPAWN b                        > serving
        start b               >                                > serving
        """,
        "a",
        "b",
    )


def test_a_session_whose_spawn_fails_is_in_nobodys_way() -> None:
    scene = Play("a", "b")
    scene.refused.add("a")
    scene.tell("start metricsd")
    assert scene.tell("ready metricsd") == ["SPAWN a", "SPAWN b"]
    assert scene.fleet.phase is Phase.SERVING
    assert scene.fleet.sessions["a"].state is State.FATAL
    assert scene.fleet.failed


def test_a_death_of_metricsd_leaves_the_sessions_alone() -> None:
    scene = play(
        OPENED
        + """
        exited(-9) metricsd   > CLAIM metricsd, REAP metricsd   > serving
        add c                 > SPAWN c                        > serving
        tick(0.1)             > SPAWN metricsd                 > serving
        ready metricsd        >                                > serving
        unhealthy metricsd    > KILL metricsd                  > serving
        """,
        "a",
        "b",
    )
    assert {p.state for p in scene.fleet.sessions.values()} == {State.RUNNING}


def test_a_death_of_a_session_leaves_the_others_alone() -> None:
    scene = play(
        OPENED
        + """
        exited(1) a           > CLAIM a, REAP a                 > serving
        """,
        "a",
        "b",
    )
    states = {name: process.state for name, process in scene.fleet.sessions.items()}
    assert states == {"a": State.EXITED, "b": State.RUNNING}


# -- Names ---------------------------------------------------------------------------------------


def test_an_ended_session_gives_its_name_to_a_new_one() -> None:
    scene = play(
        OPENED
        + """
        exited(1) a           > CLAIM a, REAP a                 > serving
        add a                 > SPAWN a                        > serving
        """,
        "a",
        "b",
    )
    assert scene.fleet.sessions["a"].restarts == 0
    assert list(scene.fleet.sessions) == ["b", "a"]


@pytest.mark.parametrize(
    "before", ["ready metricsd", "stop a", "stop r", "left(0) a", "exited(1) r", "kill r"]
)
def test_a_session_that_has_not_ended_keeps_its_name(before: str) -> None:
    scene = Play("a", "r")
    for line in ("start metricsd", "ready metricsd", before):
        scene.tell(line)
    kept = scene.fleet
    assert scene.tell("add a r") == []
    assert scene.fleet == kept


def test_a_session_that_waits_for_metricsd_keeps_its_name() -> None:
    scene = Play("a")
    kept = scene.fleet
    (other,) = build_specs("a")
    assert scene.take(Add((replace(other, policy=ON_FAILURE),))) == []
    assert scene.fleet == kept


def test_news_of_an_unknown_name_changes_nothing() -> None:
    scene = Play("a")
    before = scene.fleet
    for word in ("start", "stop", "restart", "kill", "exited(0)", "reaped(0)", "deadline"):
        assert scene.take(parse_event(word, "nobody", 1)) == []
    assert scene.fleet == before
    assert before.find("nobody") is None
    assert before.find(METRICSD) is before.metricsd
    assert before.find("a") is before.sessions["a"]
    assert [process.name for process in before.processes] == [METRICSD, "a"]


# -- Going down ----------------------------------------------------------------------------------


def test_a_stop_goes_the_other_way_round_with_the_drain_between() -> None:
    play(
        OPENED
        + """
        stop-all              > TERM a, TERM b                 > closing
        exited(0) b           > CLAIM b, REAP b                 > closing
        left(0) a             > CLAIM a                         > closing
        gone a                > REAP a, DRAIN                  > draining
        tick(100)             >                                > draining
        drained               > TERM metricsd                  > ending
        exited(0) metricsd    > CLAIM metricsd, REAP metricsd, FINISH > ended
        """,
        "a",
        "b",
    )


def test_each_session_has_its_own_timeout_unless_one_is_given() -> None:
    scene = Play("a", "r")
    scene.tell("start metricsd")
    scene.tell("ready metricsd")
    fleet, _ = step(scene.fleet, StopAll(), 100)
    assert [p.deadline for p in fleet.sessions.values()] == [109, 105]
    fleet, _ = step(scene.fleet, StopAll(2), 100)
    assert [p.deadline for p in fleet.sessions.values()] == [102, 102]


def test_a_stop_ends_the_waiting_of_one_that_backs_off() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN r                        > serving
        exited(1) r           > CLAIM r, REAP r                 > serving
        stop-all              > DRAIN                          > draining
        tick(60)              >                                > draining
        """,
        "r",
    )


def test_a_session_that_fails_while_all_go_down_is_not_restarted() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN a, SPAWN r               > serving
        left(1) r             > CLAIM r, TERM r                 > serving
        stop-all              > TERM a                         > closing
        gone r                > REAP r                         > closing
        tick(1)               >                                > closing
        exited(0) a           > CLAIM a, REAP a, DRAIN          > draining
        """,
        "a",
        "r",
    )


def test_a_stop_while_it_opens_drains_nothing() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        stop-all              > TERM metricsd                  > ending
        ready metricsd        >                                > ending
        tick(5)               > KILL metricsd                  > ending
        exited(-9) metricsd   > CLAIM metricsd, REAP metricsd, FINISH > ended
        """,
        "a",
    )


def test_a_stop_before_anything_is_up_ends_at_once_and_nothing_comes_up_later() -> None:
    scene = play(
        """
        stop-all              > FINISH                         > ended
        start metricsd        >                                > ended
        add b                 >                                > ended
        start a               >                                > ended
        """,
        "a",
    )
    assert list(scene.fleet.sessions) == ["a"]


def test_without_metricsd_there_is_nothing_to_drain() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN a                        > serving
        exited(1) metricsd    > CLAIM metricsd, REAP metricsd   > serving
        stop-all              > TERM a                         > closing
        exited(0) a           > CLAIM a, REAP a, FINISH         > ended
        """,
        "a",
    )


def test_metricsd_is_kept_up_until_the_sessions_are_down() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN a                        > serving
        stop-all              > TERM a                         > closing
        exited(1) metricsd    > CLAIM metricsd, REAP metricsd   > closing
        tick(0.1)             > SPAWN metricsd                 > closing
        ready metricsd        >                                > closing
        exited(0) a           > CLAIM a, REAP a, DRAIN          > draining
        """,
        "a",
    )


@pytest.mark.parametrize("wish", ["add b", "start a", "restart a"])
def test_nobody_is_started_once_all_go_down(wish: str) -> None:
    scene = Play("a", "c")
    for line in ("start metricsd", "ready metricsd", "stop-all", "exited(0) a"):
        scene.tell(line)
    for phase, line in (
        (Phase.CLOSING, "exited(0) c"),
        (Phase.DRAINING, "drained"),
        (Phase.ENDING, "exited(0) metricsd"),
    ):
        assert scene.fleet.phase is phase
        assert scene.tell(wish) == []
        scene.tell(line)
    assert scene.kernel.finished
    assert list(scene.fleet.sessions) == ["a", "c"]


def test_a_restart_asked_while_all_go_down_keeps_nobody_up() -> None:
    scene = Play("a")
    for line in ("start metricsd", "ready metricsd", "stop-all", "restart a", "start a"):
        scene.tell(line)
    assert scene.fleet.sessions["a"].target is Target.DOWN
    assert scene.tell("exited(0) a") == ["CLAIM a", "REAP a", "DRAIN"]


# -- In a hurry ----------------------------------------------------------------------------------


def test_a_hurry_while_it_serves_kills_everybody_still_in_order() -> None:
    play(
        OPENED
        + """
        kill-all              > KILL a, KILL b                 > closing
        exited(-9) a          > CLAIM a, REAP a                 > closing
        exited(-9) b          > CLAIM b, REAP b, KILL metricsd  > ending
        exited(-9) metricsd   > CLAIM metricsd, REAP metricsd, FINISH > ended
        """,
        "a",
        "b",
    )


def test_a_hurry_while_it_opens_kills_metricsd() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        kill-all              > KILL metricsd                  > ending
        exited(-9) metricsd   > CLAIM metricsd, REAP metricsd, FINISH > ended
        """,
        "a",
    )


def test_a_hurry_while_it_closes_drains_nothing() -> None:
    play(
        OPENED
        + """
        stop-all              > TERM a, TERM b                 > closing
        exited(0) a           > CLAIM a, REAP a                 > closing
        kill-all              > KILL b                         > closing
        exited(-9) b          > CLAIM b, REAP b, KILL metricsd  > ending
        """,
        "a",
        "b",
    )


def test_a_hurry_while_it_drains_waits_no_longer() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        >                                > serving
        stop-all              > DRAIN                          > draining
        kill-all              > KILL metricsd                  > ending
        drained               >                                > ending
        exited(-9) metricsd   > CLAIM metricsd, REAP metricsd, FINISH > ended
        """
    )


def test_a_hurry_at_the_very_end_kills_metricsd() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        >                                > serving
        stop-all              > DRAIN                          > draining
        drained               > TERM metricsd                  > ending
        kill-all              > KILL metricsd                  > ending
        exited(-9) metricsd   > CLAIM metricsd, REAP metricsd, FINISH > ended
        kill-all              >                                > ended
        stop-all              >                                > ended
        drained               >                                > ended
        tick(9)               >                                > ended
        """
    )


def test_a_second_stop_without_a_hurry_does_not_cut_the_drain_short() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        >                                > serving
        stop-all              > DRAIN                          > draining
        stop-all              >                                > draining
        drained               > TERM metricsd                  > ending
        """
    )


def test_a_drain_that_nobody_waits_for_is_ignored() -> None:
    play(
        OPENED
        + """
        drained               >                                > serving
        stop-all              > TERM a, TERM b                 > closing
        drained               >                                > closing
        """,
        "a",
        "b",
    )


# -- When done -----------------------------------------------------------------------------------


def test_it_ends_when_the_last_session_has() -> None:
    scene = play(
        OPENED
        + """
        exited(0) a           > CLAIM a, REAP a                 > serving
        exited(0) b           > CLAIM b, REAP b, DRAIN          > draining
        drained               > TERM metricsd                  > ending
        exited(0) metricsd    > CLAIM metricsd, REAP metricsd, FINISH > ended
        """,
        "a",
        "b",
        exit_when_done=True,
    )
    assert not scene.fleet.failed


def test_it_ends_with_a_failure_when_any_session_failed() -> None:
    scene = play(
        OPENED
        + """
        exited(3) a           > CLAIM a, REAP a                 > serving
        exited(0) b           > CLAIM b, REAP b, DRAIN          > draining
        """,
        "a",
        "b",
        exit_when_done=True,
    )
    assert scene.fleet.failed


def test_it_waits_for_one_that_backs_off() -> None:
    scene = play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN r                        > serving
        exited(1) r           > CLAIM r, REAP r                 > serving
        tick(1)               > SPAWN r                        > serving
        exited(0) r           > CLAIM r, REAP r, DRAIN          > draining
        """,
        "r",
        exit_when_done=True,
    )
    assert not scene.fleet.failed


def test_it_ends_when_no_session_could_be_spawned() -> None:
    scene = Play("a", exit_when_done=True)
    scene.refused.add("a")
    scene.tell("start metricsd")
    assert scene.tell("ready metricsd") == ["SPAWN a", "DRAIN"]
    assert scene.fleet.failed


def test_a_session_that_was_stopped_has_not_failed() -> None:
    scene = play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN a                        > serving
        stop a                > TERM a                         > serving
        exited(-15) a         > CLAIM a, REAP a, DRAIN          > draining
        """,
        "a",
        exit_when_done=True,
    )
    assert not scene.fleet.failed


def test_without_any_session_there_is_nothing_to_be_done_with() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        >                                > serving
        tick(60)              >                                > serving
        add a                 > SPAWN a                        > serving
        exited(0) a           > CLAIM a, REAP a, DRAIN          > draining
        """,
        exit_when_done=True,
    )


# -- Time ----------------------------------------------------------------------------------------


def test_the_deadline_is_the_earliest_of_all() -> None:
    scene = Play("a", "r")
    assert scene.fleet.deadline is None
    scene.tell("start metricsd")
    assert scene.fleet.deadline == 3  # metricsd's start timeout
    scene.tell("ready metricsd")
    assert scene.fleet.deadline is None
    scene.tell("stop a")
    assert scene.fleet.deadline == 9
    scene.tell("stop r")
    assert scene.fleet.deadline == 5


def test_a_tick_wakes_only_those_whose_time_has_come() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN a, SPAWN r, SPAWN r2     > serving
        stop a                > TERM a                         > serving
        stop r                > TERM r                         > serving
        stop r2               > TERM r2                        > serving
        tick(4.5)             >                                > serving
        tick(0.5)             > KILL r, KILL r2                > serving
        tick(0.5)             >                                > serving
        tick(0.5)             > KILL r, KILL r2                > serving
        tick(3)               > KILL a, KILL r, KILL r2        > serving
        """,
        "a",
        "r",
        "r2",
    )


# -- Any order at all ----------------------------------------------------------------------------

WORDS: Final = (
    *(f"{wish} {name}" for wish in ("start", "stop", "restart", "kill") for name in ("a", "r")),
    *(f"{death} {METRICSD}" for death in ("exited(1)", "left(0)", "gone", "ready", "unhealthy")),
    *(f"{death} {name}" for death in ("exited(0)", "exited(1)", "left(1)") for name in ("a", "r")),
    *("gone a", "gone r", "add a", "add a b", "drained", "ready metricsd", "start metricsd"),
    *("tick(0.5)", "tick(5)", "tick(20)", "stop-all", "kill-all", "refuse a", "refuse r", "full"),
)


def happen(scene: Play, line: str) -> None:
    """Let something happen if it can at all; the model of the kernel complains if it must."""
    word, *names = line.split()
    child = scene.kernel.children.get(names[0]) if names else None
    if word == "refuse":
        scene.refused ^= set(names)
    elif word == "full":
        scene.kernel.full = not scene.kernel.full
    elif word.startswith(("exited", "left", "ready", "unhealthy")):
        if child is not None and not child.dead:
            scene.tell(line)
    elif word == "gone":
        if child is not None and child.remains:
            scene.tell(line)
    else:
        scene.tell(line)
    check(scene.fleet, scene.kernel)


def check(fleet: Fleet, kernel: Kernel) -> None:
    for process in fleet.processes:
        kernel.check(process)
    assert kernel.finished == (fleet.phase is Phase.ENDED)
    if fleet.phase is Phase.OPENING:
        assert kernel.children.keys() <= {METRICSD}
    if fleet.phase in {Phase.DRAINING, Phase.ENDING, Phase.ENDED}:
        assert kernel.children.keys() <= {METRICSD}


@settings(max_examples=60, derandomize=True, database=None)
@given(st.booleans(), st.binary(min_size=40, max_size=40))
def test_whatever_happens_the_end_comes_exactly_once_and_leaves_nobody(
    exit_when_done: bool, script: bytes
) -> None:
    scene = Play("a", "r", exit_when_done=exit_when_done)
    for byte in script:
        note(WORDS[byte % len(WORDS)])
        happen(scene, WORDS[byte % len(WORDS)])
    happen(scene, "kill-all")
    while not scene.kernel.finished:
        assert scene.kernel.children, f"nobody lives, and yet it goes on: {scene.fleet}"
        for name, child in list(scene.kernel.children.items()):
            if child.dead and not child.remains:
                happen(scene, "tick(1)")  # only its claim is waited for
            elif name != METRICSD or scene.fleet.phase is Phase.ENDING:
                assert child.killed
                happen(scene, f"{'gone' if child.dead else 'left(-9)'} {name}")


# -- Many at once ----------------------------------------------------------------------------------


def fail_together(count: int, seconds: float) -> list[list[float]]:
    """Let so many sessions fail at once at each spawn; tell when each was spawned."""
    names = [f"r{number}" for number in range(count)]
    scene = Play(*names)
    scene.tell("start metricsd")
    spawns: dict[str, list[float]] = {name: [] for name in names}
    pending = scene.tell("ready metricsd")
    while True:
        started = [word.split()[1] for word in pending if word.startswith("SPAWN")]
        for name in started:
            spawns[name].append(scene.now)
        for name in started:
            scene.tell(f"exited(1) {name}")
        due = scene.fleet.deadline
        if due is None or due > seconds:
            return list(spawns.values())
        assert due >= scene.now
        pending = scene.tell(f"tick({due - scene.now!r})")


def test_fifty_that_fail_together_are_tried_again_at_a_bounded_rate_until_each_is_fatal() -> None:
    spawns = fail_together(50, 300)
    assert [len(times) for times in spawns] == [6] * 50
    assert all(times[0] == 0 for times in spawns)  # no first start waits
    retries = sorted(at for times in spawns for at in times[1:])
    for first, at in enumerate(retries):
        within = [other for other in retries[first:] if other < at + 1]
        assert len(within) <= RETRIES_AT_ONCE + RETRIES_PER_SECOND
    assert len(retries) / (retries[-1] - retries[0]) <= RETRIES_PER_SECOND + 1


def test_who_fails_alone_waits_for_its_own_backoff_only() -> None:
    (alone,) = fail_together(1, 300)
    waits = [b - a for a, b in itertools.pairwise(alone)]
    for number, wait in enumerate(waits):
        assert 0.25 * 2**number <= wait <= 0.5 * 2**number


def test_a_stable_one_is_restarted_at_once_beside_many_that_fail() -> None:
    scene = Play("steady", *(f"r{number}" for number in range(50)))
    steady = replace(scene.fleet.sessions["steady"], policy=ON_FAILURE)
    scene.fleet = replace(scene.fleet, sessions={**scene.fleet.sessions, "steady": steady})
    scene.tell("start metricsd")
    scene.tell("ready metricsd")
    scene.now = 20.0
    for number in range(50):
        scene.tell(f"exited(1) r{number}")
        scene.tell(f"exited(1) r{number}")
    scene.tell("tick(1)")  # the bucket is empty now
    assert find_retry_at(scene.fleet) > scene.now
    assert scene.tell("exited(1) steady") == ["CLAIM steady", "REAP steady", "SPAWN steady"]


def test_metricsd_is_tried_again_however_many_sessions_are() -> None:
    scene = Play(*(f"r{number}" for number in range(50)))
    scene.tell("start metricsd")
    scene.tell("ready metricsd")
    for number in range(50):
        scene.tell(f"exited(1) r{number}")
    scene.tell("exited(1) metricsd")
    assert "SPAWN metricsd" in scene.tell("tick(1)")


# -- Who waits for whom --------------------------------------------------------------------------


def test_a_session_waits_until_those_before_it_run_and_are_ready() -> None:
    scene = play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN xe, SPAWN qdb            > serving
        ready qdb             > SPAWN web, SPAWN last          > serving
""",
        "last:web",
        "web:xe:qdb",
        "qdb",
        "xe",
    )
    assert all(is_opened(scene.fleet, process) for process in scene.fleet.members)


def test_one_that_is_to_be_ready_is_waited_for_until_it_is_or_cannot_be() -> None:
    scene = play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN xe, SPAWN qdb            > serving
""",
        "qdb",
        "xe",
    )

    def settled() -> dict[str, bool]:
        return {p.name: is_settled(scene.fleet, p) for p in scene.fleet.members}

    assert settled() == {"qdb": False, "xe": True}
    scene.tell("ready qdb")
    assert settled() == {"qdb": True, "xe": True}
    scene.tell("restart qdb")
    scene.tell("exited(0) qdb")
    assert settled()["qdb"] is False
    scene.tell("tick(3)")
    scene.tell("exited(-9) qdb")
    assert settled()["qdb"] is True  # it did not come up, and is in backoff


@pytest.mark.parametrize("end", ["exited(1)", "exited(0)"])
def test_who_ran_and_ended_as_it_should_is_waited_for_no_more(end: str) -> None:
    scene = play(OPENED, "a", "b")
    scene.tell(f"{end} a")
    assert scene.tell("add late:a later:late") == (
        ["SPAWN late", "SPAWN later"] if end == "exited(0)" else []
    )


def test_it_is_said_for_whom_one_waits_and_nobody_waits_for_it_to_come_up() -> None:
    scene = play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN qdb                      > serving
""",
        "qdb",
        "web:qdb",
        "last:web",
    )

    def tell() -> list[tuple[str, str, bool]]:
        return [
            (p.name, find_reason(scene.fleet, p), is_opened(scene.fleet, p))
            for p in scene.fleet.members
        ]

    waiting = [("qdb", "", True), ("web", "waits for qdb", False), ("last", "waits for web", False)]
    assert tell() == waiting
    scene.tell("tick(3)")
    assert tell()[1] == ("web", "waits for qdb", False)  # it is being killed: who knows
    scene.tell("exited(-9) qdb")
    assert [opened for *_, opened in tell()] == [True, True, True]
    assert tell()[1][1] == "waits for qdb"
    assert scene.tell("stop web") == []
    assert find_reason(scene.fleet, scene.fleet.sessions["web"]) == ""


def test_who_waits_can_be_started_all_the_same() -> None:
    scene = play(OPENED, "a", "b")
    scene.tell("stop a")
    assert scene.tell("add web:a") == []
    assert scene.tell("restart web") == ["SPAWN web"]


def test_a_restart_of_one_before_it_is_no_concern_of_one_that_runs() -> None:
    scene = play(OPENED, "a", "b:a")
    assert scene.tell("restart a") == ["TERM a"]
    assert scene.tell("exited(0) a") == ["CLAIM a", "REAP a", "SPAWN a"]


# -- Exporters -----------------------------------------------------------------------------------


def test_exporters_come_with_the_sessions_and_go_with_metricsd() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN xe, SPAWN a              > serving
        stop-all              > TERM a                         > closing
        exited(0) a           > CLAIM a, REAP a, DRAIN         > draining
        drained               > TERM metricsd, TERM xe         > ending
        exited(0) metricsd    > CLAIM metricsd, REAP metricsd  > ending
        exited(0) xe          > CLAIM xe, REAP xe, FINISH      > ended
""",
        "a",
        "xe",
    )


def test_exporters_are_killed_with_metricsd() -> None:
    play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN xe                       > serving
        kill-all              > KILL metricsd, KILL xe         > ending
""",
        "xe",
    )


def test_an_exporter_is_no_session_to_wait_for() -> None:
    scene = play(
        """
        start metricsd        > SPAWN metricsd                 > opening
        ready metricsd        > SPAWN xe, SPAWN a              > serving
        exited(0) a           > CLAIM a, REAP a, DRAIN         > draining
""",
        "a",
        "xe",
        exit_when_done=True,
    )
    assert list(scene.fleet.exporters) == ["xe"]


# -- Reload --------------------------------------------------------------------------------------


def test_who_is_removed_is_stopped_and_then_forgotten() -> None:
    scene = play(OPENED, "a", "b")
    assert scene.tell("remove a") == ["TERM a"]
    assert scene.tell("restart a") == []  # it is leaving
    assert scene.tell("exited(0) a") == ["CLAIM a", "REAP a", "FORGET a"]
    assert list(scene.fleet.sessions) == ["b"]
    assert scene.tell("add a") == ["SPAWN a"]


def test_who_has_ended_is_forgotten_at_once() -> None:
    scene = play(OPENED, "a", "b")
    scene.tell("exited(0) a")
    assert scene.tell("remove a nobody") == ["FORGET a", "FORGET nobody"]


def test_who_was_to_leave_and_is_wanted_again_stays() -> None:
    scene = play(OPENED, "a", "b")
    assert scene.tell("remove a") == ["TERM a"]
    assert scene.tell("update a") == []
    assert scene.tell("restart a") == []
    assert scene.tell("exited(0) a") == ["CLAIM a", "REAP a", "SPAWN a"]


def test_new_settings_restart_nobody() -> None:
    scene = play(OPENED, "a", "b")
    before = scene.fleet.sessions["a"]
    spec = replace(build_spec("a"), policy=replace(NO, stop_timeout_seconds=1), start_after=("b",))
    assert scene.take(Update((spec,))) == []
    after = scene.fleet.sessions["a"]
    assert after == replace(before, policy=spec.policy, start_after=("b",))


def test_who_is_not_ready_yet_goes_by_its_new_readiness_from_now_on() -> None:
    scene = play(OPENED.replace("SPAWN a, SPAWN b", "SPAWN q"), "q")
    scene.tell("tick(2)")
    assert scene.tell("update q") == []
    assert scene.tell("tick(2)") == []  # 4 s after its start
    assert scene.tell("tick(1)") == ["KILL q"]


def test_who_need_not_be_ready_any_more_runs() -> None:
    scene = play(OPENED.replace("SPAWN a, SPAWN b", "SPAWN q"), "q", "a:q")
    assert scene.take(Update((replace(build_spec("q"), policy=NO),))) == ["SPAWN a"]
    assert scene.fleet.sessions["q"].state is State.RUNNING
    assert scene.tell("tick(3)") == []


# -- Many ---------------------------------------------------------------------------------------


class Counted(UserDict[str, Process]):
    """Sessions that count how often somebody goes through all of them."""

    looks = 0

    def values(self) -> ValuesView[Process]:
        Counted.looks += 1
        return super().values()


def test_no_event_of_every_turn_looks_at_everybody() -> None:
    scene = Play("a", "b")
    scene.tell("start metricsd")
    scene.tell("ready metricsd")
    fleet = replace(scene.fleet, sessions=Counted(scene.fleet.sessions))
    Counted.looks = 0
    for event in (Tick(), Stop("a"), Restart("b"), Exited("a", 1, 0, remains=False)):
        step(fleet, event, 1.0)
        assert fleet.deadline is None
    assert Counted.looks == 0


def test_a_batch_does_what_each_of_its_events_would_have_done_in_turn() -> None:
    fleet = build_fleet(build_specs(["a", "b", "c", "d"]), exit_when_done=False)
    for line in ("start metricsd", "spawned metricsd", "ready metricsd"):
        word, name = line.split()
        fleet, _ = step(fleet, parse_event(word, name, fleet.metricsd.incarnation), 0.0)
    fleet, _ = step(fleet, Stop("c"), 0.0)  # it hears of that when it is there
    news: tuple[ProcessEvent, ...] = (
        Spawned("a", 1, 7),
        SpawnFailed("b", 1, "no such program", final=True),
        Spawned("c", 1, 8),
        Stop("a"),  # the second of one child
        Spawned("d", 2, 9),  # another incarnation
        Spawned("nobody", 1, 10),
    )
    at_once, together = step(fleet, Batch(news), 1.0)
    one_by_one: list[object] = []
    for event in news:
        fleet, actions = step(fleet, event, 1.0)
        one_by_one += actions
    assert at_once == fleet
    assert list(together) == one_by_one
    assert [render_action(action) for action in together] == ["TERM", "TERM"]
    assert set(at_once.touched) == {"a", "b", "c"}
