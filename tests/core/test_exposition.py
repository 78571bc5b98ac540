"""The supervisor's part of the page, read by the library's own parser; findings as documents."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor.config import METRICSD, Policy
from supervisor.drift import CLAIM_FAILED, KINDS, Finding, build_drift
from supervisor.exposition import render_exposition
from supervisor.fleet import Fleet
from supervisor.process import Process, State

PAPER: Final = Process(
    name="paper", policy=Policy(), state=State.RUNNING, incarnation=3, pid=7, started_at=1.0
)
FINDING: Final = Finding(CLAIM_FAILED, "paper (pid 7)", "moved", "no space", "make room", 90.0)


def render(*sessions: Process, findings: tuple[Finding, ...] = ()) -> str:
    metricsd = Process(name=METRICSD, policy=Policy(), state=State.RUNNING)
    fleet = Fleet(metricsd=metricsd, sessions={p.name: p for p in sessions})
    return render_exposition(fleet, findings, pid=12, identity="34@56")


def parse(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value  # type: ignore[misc]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_first_line_says_whose_it_is() -> None:
    assert render().splitlines()[0] == "# ptsup 12 34@56"


def test_the_families_have_the_names_types_and_labels_that_dashboards_rely_on() -> None:
    families = {f.name: f for f in text_string_to_metric_families(render(PAPER))}
    assert {name: family.type for name, family in families.items()} == {
        "ptsup_session_up": "gauge",
        "ptsup_session_restarts": "counter",
        "ptsup_sessions": "gauge",
        "ptsup_drift_findings": "gauge",
    }
    assert all(family.documentation for family in families.values())
    labels = {name: set(family.samples[0].labels) for name, family in families.items()}
    assert labels == {
        "ptsup_session_up": {"session"},
        "ptsup_session_restarts": {"session"},
        "ptsup_sessions": {"state"},
        "ptsup_drift_findings": {"kind"},
    }
    assert "ptsup_session_restarts_total{" in render(PAPER)


@pytest.mark.parametrize("state", State)
def test_a_session_is_up_while_it_is_running_and_counted_in_its_state(state: State) -> None:
    samples = parse(render(replace(PAPER, state=state), replace(PAPER, name="other")))
    assert samples["ptsup_session_up", "paper"] == (state is State.RUNNING)
    assert samples["ptsup_session_restarts_total", "paper"] == 2
    counts = {str(s): samples["ptsup_sessions", str(s)] for s in State}
    assert len(counts) == 8
    assert counts.pop("running") == 1 + (state is State.RUNNING)
    assert sum(counts.values()) == (state is not State.RUNNING)


def test_without_sessions_every_state_and_kind_is_there_at_zero() -> None:
    samples = parse(render())
    assert set(samples) == {
        *(("ptsup_sessions", str(state)) for state in State),
        *(("ptsup_drift_findings", kind) for kind in KINDS),
    }
    assert set(samples.values()) == {0}


def test_findings_are_counted_by_kind() -> None:
    samples = parse(render(findings=(FINDING, FINDING, replace(FINDING, kind="another"))))
    assert samples["ptsup_drift_findings", CLAIM_FAILED] == 2
    assert samples["ptsup_drift_findings", "another"] == 1


def test_no_name_can_break_out_of_its_label() -> None:
    name = 'a"} 1\nptsup_sessions{state="\\'
    samples = parse(render(replace(PAPER, name=name)))
    assert samples["ptsup_session_up", name] == 1
    assert len(samples) == len(parse(render(PAPER)))


def test_findings_are_told_with_their_age_the_oldest_first() -> None:
    newer = replace(FINDING, subject="other", since=95.0)
    assert build_drift([newer, FINDING], now=100.0) == [
        {
            "kind": "claim-failed",
            "subject": "paper (pid 7)",
            "expected": "moved",
            "actual": "no space",
            "hint": "make room",
            "since_seconds": 10.0,
        },
        {**build_drift([newer], now=100.0)[0], "since_seconds": 5.0},
    ]
