"""The verdicts on what was seen: what was not seen never passes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from supervisor.scrape_config import SESSION_JOB_NAME, Target
from supervisor.verify.checks import Verdict, find_verdicts
from supervisor.verify.evidence import Facts, hide_paths, render_evidence
from supervisor.verify.render import build_document, render_lines
from supervisor.verify.snapshot import Answer, Grafana, Query, Snapshot

METRICSD = Target("peak_trade_metricsd", 9111)
AI = Target("peak_trade_ai_live", 9110)
GONE = Answer(error="cannot be reached: Connection refused")


def build_vector(*series: tuple[dict[str, str], float]) -> Answer:
    result = [{"metric": labels, "value": [1.0, str(value)]} for labels, value in series]
    return Answer(200, {"status": "success", "data": {"resultType": "vector", "result": result}})


def build_active(*targets: tuple[str, int, str]) -> Answer:
    active = [
        {
            "labels": {"job": job, "instance": f"host:{port}"},
            "scrapeUrl": f"http://host:{port}/metrics",
            "health": health,
            "lastError": "" if health == "up" else "connection refused",
        }
        for job, port, health in targets
    ]
    return Answer(200, {"data": {"activeTargets": active}})


def build_up(value: float) -> Query:
    return Query("up", build_vector(({"job": METRICSD.job}, value)))


def build_counters(value: float) -> Query:
    labels = {"__name__": "peaktrade_risk_checks_total", "result": "allow"}
    return Query("counters", build_vector((labels, value)))


PAPER: dict[str, Any] = {
    "name": "paper",
    "state": "running",
    "pid": 7,
    "shards": 2,
    "command": ["python", "/srv/desk/paper.py"],
}
STATUS: dict[str, Any] = {
    "supervisor": {"pid": 5},
    "metricsd": {"state": "running", "pid": 6},
    "port": {"host": "0.0.0.0", "port": 9111},
    "sessions": [PAPER],
    "exporters": [],
    "drift": [],
}
SOURCE = Answer(200, {"id": 1, "uid": "u", "type": "prometheus"})
GOOD = Snapshot(
    prometheus_url="http://p",
    window_seconds=10,
    targets=[METRICSD, AI],
    pages={METRICSD: Answer(200), AI: Answer(200)},
    build=Answer(200, {"data": {"version": "2.42.0"}}),
    status=STATUS,
    modes={"paper": "B"},
    active=build_active((METRICSD.job, 9111, "up"), (AI.job, 9110, "up")),
    up=[build_up(1)] * 11,
    up_seconds=10.0,
    families=Query(
        "families",
        build_vector(
            ({"__name__": "peaktrade_strategy_signals_total"}, 3),
            ({"__name__": "peaktrade_risk_checks_total"}, 10),
        ),
    ),
    first=build_counters(3),
    last=build_counters(5),
    grafana=Grafana(
        url="http://g",
        authorized=True,
        health=Answer(200, {"database": "ok", "version": "11"}),
        datasource=SOURCE,
        proxied_up=build_vector(({"job": METRICSD.job}, 1)),
    ),
)


def find_failed(seen: Snapshot) -> dict[str, Verdict]:
    return {verdict.id: verdict for verdict in find_verdicts(seen) if not verdict.passed}


def test_all_that_is_good_passes() -> None:
    assert not find_failed(GOOD)
    assert list(render_lines(find_verdicts(GOOD)))[-1] == "RESULT=PASS"


def test_no_verdict_at_all_is_no_pass() -> None:
    assert list(render_lines([])) == ["RESULT=FAIL"]


def grafana(**changes: Any) -> dict[str, Any]:
    assert GOOD.grafana
    return {"grafana": replace(GOOD.grafana, **changes)}


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [
        ({"status": None, "absence": "nothing runs"}, "supervisor", "nothing runs"),
        (
            {"status": {**STATUS, "metricsd": {"state": "backoff", "pid": None}}},
            "supervisor",
            "metricsd is backoff",
        ),
        ({"modes": {"paper": " a "}}, "mode:paper", "mode A"),
        ({"status": {**STATUS, "sessions": [{**PAPER, "shards": 0}]}}, "mode:paper", "no shard"),
        ({"pages": {METRICSD: Answer(200), AI: GONE}}, "port:peak_trade_ai_live:9110", "refused"),
        (
            {"pages": {METRICSD: Answer(500), AI: Answer(200)}},
            "port:peak_trade_metricsd:9111",
            "500",
        ),
        ({"build": GONE}, "prometheus", "http://p cannot be reached"),
        ({"build": Answer(200, None)}, "prometheus", "is no Prometheus"),
        ({"build": Answer(503)}, "prometheus", "answers 503"),
        ({"active": None}, "target:peak_trade_metricsd:9111", "was not asked"),
        ({"active": Answer(200, {"data": 5})}, "targets", "makes no sense"),
        ({"active": build_active()}, "targets", "has no targets"),
        (
            {"active": build_active((METRICSD.job, 9111, "up"))},
            "target:peak_trade_ai_live:9110",
            "no job peak_trade_ai_live with a target on port 9110",
        ),
        (
            {"active": build_active((METRICSD.job, 9111, "up"), ("ai", 9110, "up"))},
            "target:peak_trade_ai_live:9110",
            "scrapes port 9110 as job 'ai', not as peak_trade_ai_live",
        ),
        (
            {"active": build_active((METRICSD.job, 9111, "up"), (AI.job, 9110, "unknown"))},
            "target:peak_trade_ai_live:9110",
            "peak_trade_ai_live host:9110 is unknown",
        ),
        (
            {
                "active": build_active(
                    (METRICSD.job, 9111, "up"), (AI.job, 9110, "up"), ("other", 1, "down")
                )
            },
            "targets",
            "1 of 3 targets DOWN; other host:1 is down: connection refused",
        ),
        ({"up": []}, "up-stable", "could not be seen"),
        ({"up": [build_up(1), build_up(0), build_up(1)]}, "up-stable", "not 1 in 1 of 3 looks"),
        ({"up": [build_up(1), Query("up", GONE)]}, "up-stable", "refused"),
        ({"up": [build_up(1), Query("up", build_vector())]}, "up-stable", "not 1 in 1 of 2"),
        ({"up": [Query("up", build_vector())]}, "up-stable", "there is no up"),
        ({"up_seconds": 3.0}, "up-stable", "was seen for 3 s only, not for 10 s"),
        ({"families": None}, "families:peaktrade_risk_*", "was not asked"),
        ({"families": Query("f", GONE)}, "families:peaktrade_strategy_*", "refused"),
        ({"families": Query("f", build_vector())}, "families:peaktrade_risk_*", "no series"),
        ({"first": None}, "values", "could not be seen"),
        ({"last": Query("c", GONE)}, "values", "could not be seen"),
        ({"last": build_counters(3)}, "values", "no counter moved within 10 s while paper ran"),
        ({"status": {**STATUS, "sessions": []}}, "values", "no session runs"),
        (grafana(health=GONE), "grafana", "http://g cannot be reached"),
        (grafana(health=Answer(200, {"database": "failing"})), "grafana", "'failing'"),
        (grafana(health=Answer(200, ["ok"])), "grafana", "no healthy Grafana"),
        (grafana(datasource=Answer(401)), "grafana-datasource", "credentials were refused"),
        (
            grafana(datasource=Answer(401), authorized=False),
            "grafana-datasource",
            "wants credentials",
        ),
        (grafana(datasource=Answer(404)), "grafana-datasource", "no data source"),
        (grafana(datasource=Answer(302)), "grafana-datasource", "answers 302"),
        (grafana(datasource=Answer(200, {"type": "loki"})), "grafana-datasource", "'loki'"),
        (grafana(proxied_up=None), "grafana-proxy", "was not asked"),
        (grafana(proxied_up=Answer(200, {})), "grafana-proxy", "another Prometheus"),
        (
            grafana(proxied_up=build_vector(({"job": METRICSD.job}, 0))),
            "grafana-proxy",
            "is 0",
        ),
    ],
)
def test_what_is_bad_or_was_not_seen_fails_by_its_name(
    changes: dict[str, Any], name: str, says: str
) -> None:
    failed = find_failed(replace(GOOD, **changes))
    assert says in failed[name].message
    assert failed[name].next


def test_mode_a_as_configured_passes_without_shards() -> None:
    planned = {**STATUS, "sessions": [{**PAPER, "mode": "A", "port": 9120, "shards": 0}]}
    for modes in ({"paper": " a "}, {}):
        seen = replace(GOOD, modes=modes, status=planned)
        assert Verdict("mode:paper", passed=True, message="mode A as configured") in find_verdicts(
            seen
        )


def test_whose_log_to_see_is_a_name_that_is_there() -> None:
    members = {
        "sessions": [{**PAPER, "mode": "A", "port": 9120}],
        "exporters": [{"name": "session", "port": 9110}],
    }
    targets = [
        Target(SESSION_JOB_NAME, 9120),
        Target("peak_trade_session_exporter", 9110),
        METRICSD,
    ]
    pages = dict.fromkeys(targets, GONE)
    seen = replace(GOOD, status={**STATUS, **members}, targets=targets, pages=pages)
    steps = [v.next for v in find_verdicts(seen) if v.id.startswith("port:")]
    assert [step.rpartition("; ")[2] for step in steps] == [
        "ptsup logs paper",
        "ptsup logs session",
        "ptsup logs metricsd",
    ]
    nobody = replace(seen, status=None)
    steps = [v.next for v in find_verdicts(nobody) if v.id.startswith("port:")]
    assert steps == ["ptsup status", "ptsup status", "ptsup status; ptsup logs metricsd"]


def test_a_fresh_series_counts_from_nothing_and_a_fall_is_no_movement() -> None:
    assert not find_failed(replace(GOOD, first=Query("c", build_vector())))
    assert "values" in find_failed(replace(GOOD, last=build_counters(1)))


def test_a_message_from_outside_stays_one_line() -> None:
    line = next(iter(render_lines([Verdict("x", passed=False, message="a\nPASS|x|b\x1b[0m")])))
    assert line == "FAIL|x|a\\x0aPASS|x|b\\x1b[0m"


def test_the_document_has_every_verdict_and_query() -> None:
    verdicts = find_verdicts(GOOD)
    document = build_document(GOOD, verdicts)
    assert [v["id"] for v in document["verdicts"]] == [v.id for v in verdicts]
    assert document["queries"][0] == {
        "query": "up",
        "problem": None,
        "result": [{"metric": {"job": METRICSD.job}, "value": 1.0}],
    }


FACTS = Facts(
    now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    cwd="/srv/desk",
    home="/home/me",
    versions={"ptsup": "1"},
    directory="/srv/desk/.ops_local/prom_multiproc",
    shards=[("counter_7.db", 65536)],
    owners={"holds the port": ("/usr/bin/ptsup", "start")},
)


def test_evidence_checks_what_passed_and_nothing_else() -> None:
    good = render_evidence(GOOD, find_verdicts(GOOD), FACTS)
    assert good.startswith("# EV: metricsd Mode B Verify (2026-01-02)\n")
    assert "- [ ]" not in good
    assert "- (none)" in good
    assert "PEAKTRADE_METRICS_MULTIPROC_DIR=.ops_local/prom_multiproc" in good
    assert "`python paper.py`" in good
    assert "/srv" not in good
    bad = replace(GOOD, build=GONE, up=[], families=None, first=None, last=None, active=None)
    text = render_evidence(bad, find_verdicts(bad), FACTS)
    assert "**RESULT=FAIL**" in text
    assert text.count("- [x]") == 3  # the port, the mode, Grafana
    assert "- [x] Values" not in text
    assert "- prometheus: http://p cannot be reached" in text


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("/srv/desk/a.py", "a.py"),
        ("in /srv/desk", "in ."),
        ("/srv/desk2/a.py", "…/a.py"),
        ("x=/home/me/b", "x=~/b"),
        ("'/opt/some/where/run me'", "'…/run me'"),
        ("http://127.0.0.1:9090/api/v1/query", "http://127.0.0.1:9090/api/v1/query"),
        ("../up", "../up"),
    ],
)
def test_evidence_hides_where_things_are(text: str, hidden: str) -> None:
    assert hide_paths(text, "/srv/desk", "/home/me") == hidden
