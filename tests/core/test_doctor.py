"""The rules of the doctor: one cause for each failure, and steps that can be typed."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from supervisor.doctor import Diagnosis, fails, passes, render_diagnoses
from supervisor.doctor.facts import (
    Daemon,
    Library,
    PortHolder,
    SessionFacts,
    Snapshot,
    Supervised,
)
from supervisor.doctor.find import find_diagnoses
from supervisor.doctor.sessions import find_told

WHERE = "/srv/it is/prom_multiproc"
SESSION = SessionFacts(
    name="a",
    pid=7,
    up_seconds=30,
    words=("python", "a.py"),
    cwd="/srv/it is",
    variables={
        "PEAKTRADE_METRICS_MODE": "B",
        "PEAKTRADE_METRICS_MULTIPROC_DIR": WHERE,
        "PROMETHEUS_MULTIPROC_DIR": WHERE,
    },
    directory=WHERE,
    python="/venv/bin/python",
    library=Library.THERE,
    shards=2,
    counted=True,
)
GOOD = Snapshot(
    supervised=Supervised.RUNNING,
    supervisor_pid=1,
    run_dir="/srv/run",
    host="0.0.0.0",
    port=9111,
    directory=WHERE,
    holder=PortHolder(1, "ptsup start"),
    daemon=Daemon.UP,
    daemon_pid=2,
    outside="192.0.2.1:9111",
    sessions=(SESSION,),
)
BY_HAND = replace(GOOD, supervised=Supervised.NONE, supervisor_pid=None)


def find_failures(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    return {each.id: each.steps for each in find_diagnoses(snapshot) if not each.good}


def with_session(**changes: object) -> Snapshot:
    return replace(GOOD, sessions=(replace(SESSION, **changes),))  # type: ignore[arg-type]


def test_nothing_fails_where_all_is_well() -> None:
    assert not find_failures(GOOD)
    assert not find_failures(replace(BY_HAND, holder=PortHolder(2, "metricsd", is_metricsd=True)))
    assert not find_failures(replace(GOOD, sessions=()))


@pytest.mark.parametrize(
    ("snapshot", "causes"),
    [
        (replace(GOOD, supervised=Supervised.DEAD), ["supervisor"]),
        (replace(GOOD, supervised=Supervised.SILENT), ["supervisor"]),
        (
            replace(BY_HAND, holder=None, daemon=Daemon.NONE, daemon_pid=None, sessions=()),
            ["supervisor", "metricsd-up"],
        ),
        (
            replace(BY_HAND, holder=PortHolder(9, "nc"), daemon=Daemon.NONE, sessions=()),
            ["port-holder"],
        ),
        (replace(GOOD, daemon=Daemon.STOPPED), ["metricsd-up"]),
        (replace(GOOD, daemon=Daemon.HUNG), ["metricsd-up"]),
        (replace(GOOD, outside_answers=False), ["reachable"]),
        (replace(GOOD, directory_problem="it was removed"), ["directory"]),
        (replace(GOOD, violations=(("x", "symbol", 3),)), ["label-policy"]),
        (with_session(pid=None, state="fatal", reason="no such program"), ["session-up"]),
        (
            with_session(pid=None, state="fatal", reason="cannot start a: LIVE would enable live"),
            ["gate"],
        ),
        (with_session(ports=(9111,)), ["session-binds"]),
        (with_session(ports=(8000,)), ["session-binds"]),
        (with_session(variables={"PEAKTRADE_METRICS_MODE": "A"}), ["mode-b"]),
        (with_session(same_directory=False), ["directory-agrees"]),
        (
            with_session(
                same_directory=False,
                variables={
                    "PEAKTRADE_METRICS_MODE": "B",
                    "PEAKTRADE_METRICS_MULTIPROC_DIR": "prom_multiproc",
                },
            ),
            ["directory-relative"],
        ),
        (with_session(elsewhere=("/else",)), ["directory-agrees"]),
        (with_session(library=Library.MISSING, shards=0), ["prometheus-client"]),
        (
            with_session(shards=0, variables={"PEAKTRADE_METRICS_MODE": "B"}),
            ["imported-early"],
        ),
        (with_session(unlinked=True), ["shards-written"]),
        (with_session(shards=0, silent="a shard within 5 s of its start"), ["shards-written"]),
        (
            replace(
                BY_HAND,
                holder=PortHolder(2, "metricsd", is_metricsd=True),
                sessions=(replace(SESSION, name="", shards=0, up_seconds=1000),),
            ),
            ["shards-written"],
        ),
        (with_session(ports=(8000, 8001), ready_port=8000), ["session-binds"]),
        (with_session(counted=False, rejected=("cannot count signal='x'",)), ["allowlist"]),
        (with_session(counted=False, up_seconds=1000), ["values-move"]),
        (with_session(unmoved=True, stale="a value moves"), ["values-move"]),
    ],
)
def test_each_cause_is_named_alone_and_with_a_step(snapshot: Snapshot, causes: list[str]) -> None:
    failures = find_failures(snapshot)
    assert list(failures) == causes
    assert all(failures.values())


@pytest.mark.parametrize(
    "snapshot",
    [
        with_session(shards=0),  # young: its first signal may take minutes
        with_session(shards=0, up_seconds=2, variables={"PEAKTRADE_METRICS_MODE": "B"}),
        with_session(counted=False),
        with_session(unmoved=True),
        with_session(shards=0, up_seconds=1000),  # its supervisor waits longer
        with_session(ports=(8000,), ready_port=8000),
        with_session(mode="A", ports=(8000,), shards=0, variables={"PEAKTRADE_METRICS_MODE": "A"}),
        with_session(rejected=("cannot count signal='x'",)),  # and others are counted
        with_session(variables=None),
        with_session(library=Library.UNKNOWN),
        with_session(python="", library=Library.UNKNOWN, shards=0),
        replace(GOOD, outside=""),
    ],
)
def test_what_may_be_well_is_no_failure(snapshot: Snapshot) -> None:
    assert not find_failures(snapshot)


def test_a_step_can_be_typed_whatever_the_paths() -> None:
    failures = find_failures(with_session(variables={"PEAKTRADE_METRICS_MODE": "A"}))
    stop, start = failures["mode-b"]
    assert stop == "`ptsup stop a`"
    assert shlex.split(start.strip("`")) == [
        *("cd", "/srv/it is", "&&", "ptsup", "start", "-d", "-s", "a=python a.py"),
        *("--run-dir", "/srv/run"),
    ]
    wrong = replace(SESSION, name="", variables={})
    by_hand = replace(BY_HAND, sessions=(wrong,), holder=PortHolder(2, "x", is_metricsd=True))
    kill, again = find_failures(by_hand)["mode-b"]
    assert kill == "`kill 7`"
    assert f"PEAKTRADE_METRICS_MULTIPROC_DIR='{WHERE}'" in again


@pytest.mark.parametrize(
    "changes",
    [
        {"variables": {"PEAKTRADE_METRICS_MODE": "A"}},
        {"same_directory": False},
        {"ports": (9111,)},
    ],
)
def test_a_session_of_the_file_stays_one_of_the_file(changes: dict[str, object]) -> None:
    (steps,) = find_failures(with_session(planned=True, **changes)).values()
    assert [step for step in steps if "`" in step] == ["`ptsup restart a`"]


def test_who_is_judged_and_by_what_is_as_the_supervisor_says() -> None:
    exporters = [{"name": name, "state": name, "pid": None} for name in ("backoff", "running")]
    session = {"name": "a", "pid": 7, "planned": True, "mode": "A", "ready_port": 8000}
    document = {
        "sessions": [session],
        "exporters": exporters,
        "drift": [
            {"kind": "stale-values", "subject": "a", "expected": "within 7 s"},
            {"kind": "missing-shard", "subject": "b", "expected": "within 5 s"},
        ],
    }
    (a, facts), (exporter, _) = find_told(document)
    assert (a["pid"], exporter["name"]) == (7, "backoff")
    assert facts == {
        **{key: value for key, value in session.items() if key != "pid"},
        "stale": "within 7 s",
        "silent": "",
    }


def test_how_long_is_said_as_the_supervisor_says_it() -> None:
    snapshot = with_session(unmoved=True, stale="a value moves at least every 7 s")
    (failed,) = [each for each in find_diagnoses(snapshot) if not each.good]
    assert (
        failed.message == "a: none of its values moves; expected: a value moves at least every 7 s"
    )


def test_a_masked_command_is_not_given_as_a_step() -> None:
    changed = with_session(variables={}, words=("python", "a.py", "--token", "***"))
    assert "***" not in "".join(find_failures(changed)["mode-b"])


def test_lines_have_three_fields_whatever_is_in_them() -> None:
    found: list[Diagnosis] = [
        passes("a", "good | or\nnot"),
        fails("b", "bad", ("`do it`", "then that")),
        fails("c", "worse", ("`do it`",)),
    ]
    assert render_diagnoses(found) == [
        "PASS|a|good / or not",
        "FAIL|b|bad",
        "NEXT|`do it`",
        "NEXT|then that",
        "FAIL|c|worse",
    ]
