"""The status document, whose keys scripts rely on, and the table a person reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from signal import SIGRTMIN
from typing import Any, Final

import click
import pytest
from rich.cells import cell_len

from supervisor.config import Policy, Readiness, SessionSpec
from supervisor.dead_status import build_dead_status
from supervisor.drift import Finding
from supervisor.fleet import Fleet, Phase
from supervisor.process import Ending, Process, State, Target
from supervisor.records import build_origin, build_state
from supervisor.render import render_bytes, render_drift, render_seconds, render_status
from supervisor.status import Facts, ShardFacts, build_status
from supervisor.step import build_fleet
from supervisor.words import (
    describe,
    find_exit,
    find_stopping,
    is_news,
    render_exit,
    render_process,
    render_stopping,
)

NOW: Final = 1000.0
SPECS: Final = {
    name: SessionSpec(
        name=name, command=("python", f"{name}.py"), cwd=Path("/w"), env={"TOKEN": "hunter2"}
    )
    for name in ("a", "b")
}
RUNNING: Final = Process(
    name="a",
    policy=Policy(),
    state=State.RUNNING,
    target=Target.UP,
    incarnation=3,
    pid=7,
    started_at=990.0,
)
BACKING_OFF: Final = Process(
    name="b",
    policy=Policy(),
    state=State.BACKOFF,
    target=Target.UP,
    incarnation=2,
    returncode=-9,
    started_at=960.0,
    ended_at=965.5,
    deadline=NOW + 4.25,
    reason="it fell over",
)
METRICSD: Final = replace(RUNNING, name="metricsd", pid=2, incarnation=2)
SHARDS: Final = ShardFacts(
    directory="/w/prom_multiproc", by_pid={7: 2, 99: 1}, live=2, retired=1, bytes=196608
)
FACTS: Final = Facts(
    pid=1,
    version="0.1",
    run_dir="/w/run",
    started_at=899.8766,
    host="0.0.0.0",
    port=9111,
    shards=SHARDS,
    last_scrape_age_seconds=3.5,
    usage={7: (12.345, 4096)},
)


def build(*sessions: Process, phase: Phase = Phase.SERVING) -> dict[str, Any]:
    fleet = Fleet(metricsd=METRICSD, sessions={p.name: p for p in sessions}, phase=phase)
    return build_status(fleet, SPECS, FACTS, lambda name: f"/w/run/logs/{name}.log", NOW)


# -- Of a living supervisor --------------------------------------------------------------------


def test_the_document_has_the_keys_that_scripts_rely_on() -> None:
    document = build(RUNNING, BACKING_OFF)
    a, b = document.pop("sessions")
    assert document == {
        "schema": "ptsup.status/1",
        "supervisor": {
            "pid": 1,
            "state": "running",
            "uptime_seconds": 100.123,
            "version": "0.1",
            "run_dir": "/w/run",
        },
        "port": {"host": "0.0.0.0", "port": 9111, "holder_pid": 1},
        "metricsd": {
            "state": "running",
            "pid": 2,
            "restarts": 1,
            "last_scrape_age_seconds": 3.5,
            "log": "/w/run/logs/metricsd.log",
        },
        "shards": {
            "dir": "/w/prom_multiproc",
            "live": 2,
            "retired": 1,
            "unreadable": 0,
            "bytes": 196608,
        },
        "exporters": [],
        "drift": [],
    }
    assert a == {
        "name": "a",
        "state": "running",
        "target": "up",
        "planned": False,
        "pid": 7,
        "incarnation": 3,
        "restarts": 2,
        "returncode": None,
        "exit": None,
        "uptime_seconds": 10.0,
        "deadline_seconds": None,
        "command": ["python", "a.py"],
        "mode": "B",
        "port": None,
        "ready_port": None,
        "shards": 2,
        "log": "/w/run/logs/a.log",
        "log_start": 0,
        "cpu_percent": 12.3,
        "rss_bytes": 4096,
        "reason": "",
        "last_lines": [],
    }
    assert b == {
        "name": "b",
        "state": "backoff",
        "target": "up",
        "planned": False,
        "pid": None,
        "incarnation": 2,
        "restarts": 1,
        "returncode": -9,
        "exit": "SIGKILL",
        "uptime_seconds": 5.5,
        "deadline_seconds": 4.25,
        "command": ["python", "b.py"],
        "mode": "B",
        "port": None,
        "ready_port": None,
        "shards": 0,
        "log": "/w/run/logs/b.log",
        "log_start": 0,
        "cpu_percent": 0.0,
        "rss_bytes": 0,
        "reason": "it fell over",
        "last_lines": [],
    }


@pytest.mark.parametrize(
    ("ready", "port"),
    [(Readiness(port=8000), 8000), (Readiness(http="http://127.0.0.1:8080/healthz"), 8080)],
)
def test_how_a_session_was_to_run_is_told_of_the_living_and_the_dead(
    ready: Readiness, port: int
) -> None:
    spec = replace(SPECS["a"], planned=True, ready=ready)
    fleet = build_fleet([spec], exit_when_done=False)
    (living,) = build_status(fleet, {"a": spec}, FACTS, str, NOW)["sessions"]
    left = build_record(RUNNING, spec, nonce="n", identity="5@boot")
    (dead,) = bury(supervisor=SUPERVISOR, a=left)["sessions"]
    for told in (living, dead):
        assert (told["planned"], told["ready_port"]) == (True, port)


def test_the_document_tells_what_drifted() -> None:
    finding = Finding("claim-failed", "a (pid 7)", "moved", "no space", "make room", NOW - 2)
    facts = replace(FACTS, findings=(finding,))
    fleet = Fleet(metricsd=METRICSD, sessions={}, phase=Phase.SERVING)
    (found,) = build_status(fleet, SPECS, facts, str, NOW)["drift"]
    assert (found["kind"], found["subject"], found["since_seconds"]) == (
        "claim-failed",
        "a (pid 7)",
        2.0,
    )


def test_the_document_is_plain_json_and_holds_no_environment() -> None:
    text = json.dumps(build(RUNNING, BACKING_OFF))
    assert json.loads(text) == build(RUNNING, BACKING_OFF)
    assert "hunter2" not in text


@pytest.mark.parametrize("phase", Phase)
def test_the_supervisor_runs_until_it_goes_down(phase: Phase) -> None:
    running = phase in {Phase.OPENING, Phase.SERVING}
    assert build(phase=phase)["supervisor"]["state"] == ("running" if running else "stopping")


def test_a_session_that_waits_for_metricsd_has_no_past() -> None:
    fleet = build_fleet([SPECS["a"]], exit_when_done=False)
    (session,) = build_status(fleet, SPECS, FACTS, str, NOW)["sessions"]
    assert session["state"] == "stopped"
    assert session["target"] == "up"
    assert session["pid"] is session["exit"] is session["returncode"] is None
    assert (session["incarnation"], session["restarts"], session["uptime_seconds"]) == (0, 0, 0.0)


def test_an_uptime_ends_with_the_process_also_at_the_very_beginning_of_time() -> None:
    (session,) = build(replace(RUNNING, started_at=-5.0, ended_at=0.0, dead=True))["sessions"]
    assert session["uptime_seconds"] == 5.0


# -- How it ended, in a word -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returncode", "word"),
    [
        (0, "0"),
        (1, "1"),
        (255, "255"),
        (-9, "SIGKILL"),
        (-15, "SIGTERM"),
        (-11, "SIGSEGV"),
        (-(SIGRTMIN + 1), f"SIG{SIGRTMIN + 1}"),
        (None, "unknown"),
    ],
)
def test_an_exit_status_is_said_in_a_word(returncode: int | None, word: str) -> None:
    assert render_exit(returncode) == word


@pytest.mark.parametrize(
    ("process", "word"),
    [
        (RUNNING, None),
        (replace(RUNNING, state=State.STOPPING), None),
        (replace(RUNNING, state=State.STOPPING, dead=True, returncode=3), "3"),
        (replace(RUNNING, state=State.STARTING, pid=None, started_at=None), None),
        (replace(RUNNING, state=State.STOPPED, pid=None, returncode=-15), "SIGTERM"),
        (replace(RUNNING, state=State.EXITED, pid=None, returncode=None), "unknown"),
        (replace(RUNNING, state=State.FATAL, pid=None, started_at=None), None),
        (BACKING_OFF, "SIGKILL"),
        (Process(name="a", policy=Policy()), None),
    ],
)
def test_only_what_ran_and_ended_has_an_exit(process: Process, word: str | None) -> None:
    assert find_exit(process) == word


# -- Who is still stopping ---------------------------------------------------------------------


def test_those_still_stopping_are_named_with_the_seconds_they_have() -> None:
    stopping = replace(RUNNING, state=State.STOPPING, target=Target.DOWN, deadline=NOW + 42)
    found = find_stopping(build(stopping, BACKING_OFF), 2.0)
    assert found == [("a", 40.0)]
    assert render_stopping(found) == "stopping, KILL in: a (40 s)"


def test_a_dead_leader_whose_group_is_gone_has_no_deadline_to_wait_for() -> None:
    assert find_stopping(build(replace(RUNNING, state=State.STOPPING, dead=True)), 0.0) == []


def test_the_countdown_is_one_short_line() -> None:
    left = [(f"session-{number}", 9.0 - number) for number in range(12)]
    assert render_stopping([]) == ""
    line = "stopping, KILL in: session-0 (9 s), session-1 (8 s), session-2 (7 s), 9 more"
    assert render_stopping(left) == line
    assert render_stopping([("late", -3.0)]) == "stopping, KILL in: late (0 s)"


# -- A process in a line -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("process", "line"),
    [
        (RUNNING, "a: running (pid 7)"),
        (BACKING_OFF, "b: backoff (exit SIGKILL): it fell over"),
        (replace(RUNNING, state=State.STOPPING), "a: stopping"),
        (replace(RUNNING, state=State.STOPPED, pid=None, returncode=0), "a: stopped (exit 0)"),
        (replace(RUNNING, state=State.EXITED, pid=None), "a: exited (exit unknown)"),
        (
            replace(RUNNING, state=State.FATAL, pid=None, started_at=None, reason="missing"),
            "a: fatal: missing",
        ),
    ],
)
def test_what_a_process_has_become_is_said_in_a_line(process: Process, line: str) -> None:
    assert (
        render_process(json.loads(json.dumps(describe(Fleet(metricsd=METRICSD), process)))) == line
    )


def test_only_what_a_person_waits_for_is_news() -> None:
    told = {state for state in State if is_news(replace(RUNNING, state=state))}
    assert told == set(State) - {State.STARTING, State.STOPPING}
    stopping = replace(RUNNING, state=State.STOPPING)
    assert is_news(replace(stopping, ending=Ending.ASKED))
    assert not is_news(replace(stopping, ending=Ending.BY_ITSELF))


# -- Secrets -----------------------------------------------------------------------------------


def test_a_secret_in_a_command_is_in_no_document() -> None:
    spec = replace(SPECS["a"], command=("python", "a.py", "--api-secret", "hunter2"))
    fleet = build_fleet([spec], exit_when_done=False)
    (process,) = fleet.sessions.values()
    assert "hunter2" not in json.dumps(build_status(fleet, {"a": spec}, FACTS, str, NOW))
    assert "hunter2" not in json.dumps(build_record(process, spec, nonce="", identity=None))


# -- What is left behind, and the document of the dead ---------------------------------------------


def test_a_state_names_its_process_and_holds_no_environment() -> None:
    state = build_record(RUNNING, SPECS["a"], nonce="n0nce", identity="5@boot")
    assert state == {
        "name": "a",
        "state": "running",
        "target": "up",
        "pid": 7,
        "identity": "5@boot",
        "incarnation": 3,
        "nonce": "n0nce",
        "returncode": None,
        "dead": False,
        "ending": None,
        "failures": 0,
        "failed_at": [],
        "started_at": RUNNING.started_at,
        "ready_at": RUNNING.ready_at,
        "command": ["python", "a.py"],
        "cwd": "/w",
        "variables": ["TOKEN"],
        "role": "session",
        "planned": False,
        "settings": {},
    }
    assert "hunter2" not in json.dumps(build_record(BACKING_OFF, SPECS["b"], nonce="", identity=""))


def test_metricsd_has_a_state_without_a_spec() -> None:
    state = build_record(METRICSD, None, nonce="n", identity=None)
    assert (state["command"], state["cwd"], state["pid"]) == ([], "", 2)


def build_record(
    process: Process, spec: SessionSpec | None, *, nonce: str, identity: str | None
) -> dict[str, Any]:
    state = build_state(process, nonce=nonce, identity=identity)
    return {**state, **build_origin(process.role, spec)}


def bury(*names: str, **states: dict[str, Any]) -> dict[str, Any]:
    living = {name: states[name]["pid"] for name in names}
    return build_dead_status(
        states, living, run_dir="/w/run", shards=SHARDS, log=lambda name: f"{name}.log"
    )


def build_left(process: Process) -> dict[str, Any]:
    return build_record(process, SPECS.get(process.name), nonce="n", identity="5@boot")


SUPERVISOR: Final = {"pid": 1, "version": "0.1", "host": "0.0.0.0", "port": 9111}


def test_the_document_of_the_dead_has_the_same_keys() -> None:
    living, dead = (
        build(RUNNING),
        bury(
            "a",
            "metricsd",
            supervisor=SUPERVISOR,
            metricsd=build_left(METRICSD),
            a=build_left(RUNNING),
        ),
    )
    assert dead.keys() == living.keys()
    for key in ("supervisor", "port", "metricsd", "shards"):
        assert dead[key].keys() == living[key].keys()
    assert dead["sessions"][0].keys() == living["sessions"][0].keys()
    json.dumps(dead)


def test_the_document_of_the_dead_tells_who_lives_on() -> None:
    dead = bury(
        "a",
        "metricsd",
        supervisor=SUPERVISOR,
        metricsd=build_left(METRICSD),
        a=build_left(RUNNING),
        b=build_left(BACKING_OFF),
    )
    a, b = dead.pop("sessions")
    assert dead == {
        "schema": "ptsup.status/1",
        "supervisor": {
            "pid": 1,
            "state": "dead",
            "uptime_seconds": 0.0,
            "version": "0.1",
            "run_dir": "/w/run",
        },
        "port": {"host": "0.0.0.0", "port": 9111, "holder_pid": 2},
        "metricsd": {
            "state": "running",
            "pid": 2,
            "restarts": 1,
            "last_scrape_age_seconds": None,
            "log": "metricsd.log",
        },
        "shards": build()["shards"],
        "exporters": [],
        "drift": [],
    }
    assert a == {
        "name": "a",
        "state": "running",
        "target": "up",
        "planned": False,
        "pid": 7,
        "incarnation": 3,
        "restarts": 2,
        "returncode": None,
        "exit": None,
        "uptime_seconds": 0.0,
        "deadline_seconds": None,
        "command": ["python", "a.py"],
        "mode": "B",
        "port": None,
        "ready_port": None,
        "shards": 2,
        "log": "a.log",
        "log_start": 0,
        "cpu_percent": 0.0,
        "rss_bytes": 0,
        "reason": "",
        "last_lines": [],
    }
    # It waited for a restart that nobody will make any more.
    waited = {"name": "b", "state": "exited", "pid": None, "returncode": -9, "exit": "SIGKILL"}
    assert b == {**a, **waited, "incarnation": 2, "restarts": 1, "shards": 0} | {
        "command": ["python", "b.py"],
        "log": "b.log",
    }


def test_one_that_ended_since_ended_nobody_saw_how() -> None:
    dead = bury(supervisor=SUPERVISOR, metricsd=build_left(METRICSD), a=build_left(RUNNING))
    assert (dead["metricsd"]["state"], dead["metricsd"]["pid"]) == ("exited", None)
    assert dead["port"]["holder_pid"] is None
    (a,) = dead["sessions"]
    assert (a["state"], a["pid"], a["returncode"], a["exit"]) == ("exited", None, None, "unknown")


@pytest.mark.parametrize("state", [State.STOPPED, State.EXITED, State.FATAL])
def test_one_that_had_ended_before_is_as_it_was(state: State) -> None:
    ended = replace(RUNNING, state=state, pid=None, returncode=3)
    (session,) = bury(supervisor=SUPERVISOR, a=build_left(ended))["sessions"]
    assert (session["state"], session["returncode"], session["exit"]) == (str(state), 3, "3")


def test_one_that_never_was_spawned_never_ended() -> None:
    waiting = Process(name="a", policy=Policy(), target=Target.UP)
    (session,) = bury(supervisor=SUPERVISOR, a=build_left(waiting))["sessions"]
    assert (session["state"], session["exit"], session["restarts"]) == ("stopped", None, 0)


def test_a_state_directory_with_hardly_anything_in_it_is_told_of_too() -> None:
    for dead in (bury(), bury(supervisor=SUPERVISOR), bury(a=build_left(RUNNING))):
        assert dead["supervisor"]["state"] == "dead"
        draw(dead, 80)


# -- The table -------------------------------------------------------------------------------------


def draw(document: dict[str, Any], width: int | None, height: int | None = None) -> list[str]:
    return [click.unstyle(line) for line in render_status(document, width, height)]


def test_a_person_sees_it_all_at_a_glance() -> None:
    assert [line.rstrip() for line in draw(build(RUNNING, BACKING_OFF), 100)] == [
        "supervisor  running  pid 1, up 1m40s",
        "metricsd    running  pid 2, 0.0.0.0:9111, scraped 3.5s ago, 1 restarts",
        "shards               2 live, 1 retired, 192K in /w/prom_multiproc",
        "sessions             1 running, 1 backoff",
        "",
        "SESSION  STATE    PID    UP  RESTARTS  EXIT     CPU  MEM  SHARDS  COMMAND",
        "a        running    7   10s         2  -        12%   4K       2  python a.py",
        "b        backoff    -  5.5s         1  SIGKILL    -    -       0  python b.py",
        "b: it fell over",
    ]


def test_a_person_sees_what_a_dead_supervisor_left() -> None:
    dead = bury("a", supervisor=SUPERVISOR, metricsd=build_left(METRICSD), a=build_left(RUNNING))
    dead["metricsd"]["restarts"] = 0
    assert [line.rstrip() for line in draw(dead, 100)][:2] == [
        "supervisor  dead    pid 1",
        "metricsd    exited  pid -, 0.0.0.0:9111, never scraped",
    ]
    assert draw(bury(), 100)[0].split() == ["supervisor", "dead", "pid", "-"]


def test_only_an_exit_that_should_not_have_been_is_red() -> None:
    for returncode, style in ((1, "red"), (-9, "red"), (None, "red"), (0, "")):
        document = build(replace(BACKING_OFF, returncode=returncode))
        word = render_exit(returncode)
        lines = "".join(render_status(document, 100))
        assert (click.style(word, fg="red") in lines) == (style == "red"), word


def test_a_column_that_just_fits_stays() -> None:
    document = build(RUNNING)
    widest = next(line for line in draw(document, 400) if line.startswith("SESSION"))
    width = widest.index("COMMAND")
    assert "SHARDS" in "".join(draw(document, width))
    assert "SHARDS" not in "".join(draw(document, width - 1))
    assert "COMMAND" not in "".join(draw(document, width + 11))
    assert "COMMAND" in "".join(draw(document, width + 12))


def test_without_sessions_it_says_so() -> None:
    assert draw(build(), 80)[-1] == "no sessions"


@pytest.mark.parametrize("width", [*range(29, 140, 5), 400])
def test_no_line_is_wider_than_the_terminal_and_the_state_is_always_shown(width: int) -> None:
    long = replace(RUNNING, name="a", pid=4194304, started_at=-1e6)
    lines = draw(build(long, BACKING_OFF), width)
    assert max(map(cell_len, lines)) <= width
    header = next(line for line in lines if line.startswith("SESSION"))
    assert header.split()[:2] == ["SESSION", "STATE"]
    rows = lines[lines.index(header) + 1 :][:2]
    assert [row.split()[:2] for row in rows] == [["a", "running"], ["b", "backoff"]]


def test_the_last_words_of_who_gave_up_are_shown_and_command_no_terminal() -> None:
    document = build(RUNNING)
    words = ["Traceback", "\x1b]0;evil\x07" + "x" * 200]
    document["sessions"][0] |= {"state": "fatal", "reason": "failed 6 times", "last_lines": words}
    lines = [click.unstyle(line) for line in render_status(document, 80)]
    at = next(i for i, line in enumerate(lines) if line.endswith("failed 6 times"))
    assert lines[at + 1] == "  Traceback"
    assert lines[at + 2].startswith("  \\x1b]0;evil")
    assert lines[at + 2].endswith("…")
    assert len(lines[at + 2]) == 80


def test_a_long_name_leaves_room_for_the_rest() -> None:
    document = build(RUNNING)
    document["sessions"][0]["name"] = "x" * 64
    lines = draw(document, 80)
    assert max(map(cell_len, lines)) <= 80
    assert any("running" in line and line.startswith("xxx") for line in lines)


def test_what_comes_from_outside_cannot_command_the_terminal() -> None:
    document = build(RUNNING)
    evil = "\x1b[2J[red]x[/red][/]\x9b\n\udcff"
    document["sessions"][0] |= {"command": ["sh", "-c", evil], "reason": evil}
    document["shards"]["dir"] = document["port"]["host"] = evil
    document["drift"] = [{"kind": "unexpected-file", "subject": evil, "actual": evil, "hint": evil}]
    text = "".join(draw(document, 200))
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert text.count("\\x1b[2J[red]x[/red][/]\\x9b\\x0a\\udcff") == 7
    assert text.encode()


def test_unreadable_shards_and_findings_are_shown_when_there_are_any() -> None:
    document = build(RUNNING)
    document["shards"]["unreadable"] = 2
    found = {"kind": "orphan-shard", "subject": "pid 9", "actual": "it is dead", "hint": "wait"}
    document["drift"] = [found]
    lines = draw(document, 100)
    assert "2 live, 1 retired, 2 unreadable, 192K in" in lines[2]
    assert lines[-1] == "orphan-shard: pid 9: it is dead. wait"


def test_a_finding_is_shown_with_all_that_it_says() -> None:
    evil = "\x1b[2J"
    found = {"kind": "stale-values", "subject": evil, "since_seconds": 61.0}
    found |= {"expected": "a value moves", "actual": "none does, for a long while", "hint": evil}
    assert [click.unstyle(line) for line in render_drift([found], 32)] == [
        "stale-values: \\x1b[2J, for 1m01s",
        "  expected  a value moves",
        "  actual    none does, for a",
        "            long while",
        "  hint      \\x1b[2J",
    ]
    assert len(render_drift([found, found], None)) == 8


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (4.23, "4.2s"),
        (9.99, "9.9s"),
        (10, "10s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (187.9, "3m07s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (19200, "5h20m"),
        (86399, "23h59m"),
        (86400, "1d00h"),
        (273600, "3d04h"),
    ],
)
def test_a_duration_is_said_with_its_two_largest_units(seconds: float, text: str) -> None:
    assert render_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1K"),
        (65536, "64K"),
        (1048575, "1023K"),
        (1048576, "1.0M"),
        (10 << 20, "10M"),
        (22020096, "21M"),
        (1610612736, "1.5G"),
        (5 << 40, "5.0T"),
        (5000 << 40, "5000T"),
    ],
)
def test_a_size_is_said_with_its_unit(size: int, text: str) -> None:
    assert render_bytes(size) == text


def test_a_terminal_that_is_too_low_says_how_many_more_there_are() -> None:
    document = build(RUNNING)
    document["sessions"] *= 40
    lines = draw(document, 80, 24)
    assert len(lines) <= 24
    assert lines[-1] == "and 24 more"


def test_without_a_width_nothing_is_cut() -> None:
    document = build(RUNNING)
    document["sessions"][0]["command"] = ["python", "x" * 500]
    assert any(line.endswith("x" * 500) for line in draw(document, None))


def test_a_wide_character_takes_two_columns_and_a_cut_is_marked() -> None:
    document = build(RUNNING)
    document["sessions"][0]["command"] = ["価格" * 100]
    lines = draw(document, 100)
    assert max(map(cell_len, lines)) <= 100
    assert next(line for line in lines if line.startswith("a ")).endswith("…")
