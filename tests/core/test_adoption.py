"""Records become processes: as they were, and never as somebody guessed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.adoption import Former, build_events, build_process, build_spec
from supervisor.config import Policy, RestartWhen, SessionSpec
from supervisor.events import Adopted, Exited
from supervisor.process import Ending, Process, State, Target
from supervisor.records import build_origin, build_state, parse_record

NOW: Final = 1000.0
POLICY: Final = replace(Policy(), restart=RestartWhen.ALWAYS, stop_timeout_seconds=3.0)
SPEC: Final = SessionSpec(
    name="paper",
    command=("env", "X_TOKEN=hunter2", "sleep"),
    cwd=Path("/w"),
    env={"DESK": "5"},
    policy=POLICY,
)
RUNNING: Final = Process(
    name="paper",
    policy=POLICY,
    state=State.RUNNING,
    target=Target.UP,
    incarnation=3,
    pid=7,
    started_at=980.0,
    ready_at=981.0,
    failures=2,
)


def read_back(process: Process, **found: Any) -> Former:
    """Write a process down and read it back, as a crash and the next start do."""
    record = parse_record(
        {**build_state(process, nonce="n", identity="5@boot"), **build_origin(process.role, SPEC)}
    )
    return Former(record=record, **found)


def test_a_living_one_is_adopted_as_it_was() -> None:
    former = read_back(RUNNING, pid=7, identity="5@boot")
    process = build_process(former, NOW)
    assert process == replace(RUNNING, state=State.STOPPED, pid=None)
    assert build_events(former, remains=True) == (Adopted("paper", 3, 7),)


def test_settings_that_are_given_anew_count_for_who_lives() -> None:
    policy = replace(POLICY, restart=RestartWhen.NO, stop_timeout_seconds=9.0)
    given = replace(SPEC, policy=policy, start_after=("db",))
    process = build_process(read_back(RUNNING, pid=7, identity="5@boot"), NOW, given)
    assert (process.policy, process.start_after) == (policy, ("db",))
    assert (process.incarnation, process.failures) == (3, 2)


@pytest.mark.parametrize("state", [State.STOPPED, State.EXITED, State.FATAL])
def test_one_at_rest_is_listed_as_it_ended(state: State) -> None:
    ended = replace(RUNNING, state=state, pid=None, returncode=3, target=Target.DOWN)
    process = build_process(read_back(ended), NOW)
    assert (process.state, process.target, process.returncode) == (state, Target.DOWN, 3)
    assert process.deadline is None


def test_a_backoff_is_over() -> None:
    waiting = replace(RUNNING, state=State.BACKOFF, pid=None, deadline=9999.0)
    assert build_process(read_back(waiting), NOW).deadline == NOW


def test_one_that_died_unseen_ended_in_a_way_nobody_knows() -> None:
    former = read_back(RUNNING, pid=7)
    assert build_events(former, remains=True) == (
        Adopted("paper", 3, 7),
        Exited("paper", 3, None, remains=True),
    )


def test_how_one_ended_is_known_when_it_was_seen_before_the_crash() -> None:
    seen = replace(RUNNING, state=State.STOPPING, dead=True, returncode=-9)
    (_, exited) = build_events(read_back(seen, pid=7), remains=False)
    assert exited == Exited("paper", 3, -9, remains=False)


def test_an_intent_that_led_to_nobody_is_lost_and_one_not_begun_is_to_be_spawned() -> None:
    starting = replace(RUNNING, state=State.STARTING, pid=None)
    former = read_back(starting)
    assert build_events(former, remains=False) == (Adopted("paper", 3, None),)
    record = {**former.record, "nonce": ""}
    process = build_process(Former(record=record), NOW)
    assert (process.state, process.target, process.incarnation) == (State.STOPPED, Target.UP, 2)
    assert Former(record=record).at_rest


@pytest.mark.parametrize("ending", list(Ending))
def test_a_wish_to_have_it_down_outlives_the_supervisor_and_no_other_ending_does(
    ending: Ending,
) -> None:
    stopping = replace(RUNNING, state=State.STOPPING, ending=ending)
    process = build_process(read_back(stopping, pid=7, identity="5@boot"), NOW)
    assert process.ending == (ending if ending is Ending.ASKED else None)


def test_moments_of_another_boot_are_none_of_the_future() -> None:
    process = build_process(read_back(replace(RUNNING, started_at=5e9, ready_at=5e9)), NOW)
    assert (process.started_at, process.ready_at) == (NOW, NOW)


@pytest.mark.parametrize(
    "garbage",
    [
        {},
        {"state": "dancing"},
        {"state": "running", "restart": "sometimes", "stop_timeout_seconds": -1},
        {"state": "exited", "incarnation": -5, "failures": -1, "target": "sideways"},
        {"marks": {"command": ["sleep"]}, "log_start": True},
    ],
)
def test_garbage_becomes_the_default(garbage: dict[str, Any]) -> None:
    former = Former(record={**parse_record(garbage), "name": "a"})
    process = build_process(former, NOW)
    assert (process.policy, process.incarnation, process.failures) == (Policy(), 0, 0)
    assert process.target is Target.UP
    assert not former.record.keys() & {"marks", "log_start"}


def test_values_come_from_the_new_environment_and_what_is_missing_is_named() -> None:
    former = read_back(RUNNING, pid=7, identity="5@boot", words=SPEC.command)
    assert "hunter2" not in repr(former.record)
    assert "5" not in repr(former.record.get("variables"))
    spec, missing = build_spec(former, {"DESK": "6", "OTHER": "1"})
    assert (spec, missing) == (replace(SPEC, env={"DESK": "6"}), ())
    _, missing = build_spec(former, {})
    assert missing == ("DESK",)


@pytest.mark.parametrize("words", [(), ("python",), ("env", "X_TOKEN=hunter2", "wake")])
def test_a_masked_command_is_taken_from_the_process_only_where_it_is_the_same(
    words: tuple[str, ...],
) -> None:
    spec, missing = build_spec(read_back(RUNNING, pid=7, words=words), {"DESK": "6"})
    assert spec.command == ("env", "X_TOKEN=***", "sleep")
    assert missing == ("a secret of its command",)
