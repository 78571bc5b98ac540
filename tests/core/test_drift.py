"""Every rule of drift: a plan and a snapshot in, findings out; what is news, and what ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from supervisor.drift import KINDS, MENDED_SECONDS, Finding, diff_findings
from supervisor.drift.facts import (
    Defective,
    DirectoryFacts,
    Environment,
    FailedClaim,
    Foreigner,
    Lapse,
    Listening,
    LostListener,
    Obstacle,
    Orphan,
    Plan,
    SessionFacts,
    SessionPlan,
    Snapshot,
    Stray,
    Unlinked,
    Unrotatable,
    Violation,
)
from supervisor.drift.find import KIND_LIMIT, RULES, find_drift, find_expiry

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW: Final = 1000.0
VARIABLES: Final[Mapping[str, str]] = {"PEAKTRADE_METRICS_MODE": "B", "PROMETHEUS_DIR": "/s"}
PLAN: Final = Plan(
    directory="/s",
    directory_id=(1, 2),
    address="0.0.0.0:9111",
    port=9111,
    sessions={
        "paper": SessionPlan(variables=VARIABLES),
        "legacy": SessionPlan(variables={}, shares=False),
    },
)
GOOD: Final = Snapshot(now=NOW, directory=DirectoryFacts((1, 2)))


def paper(**facts: Any) -> Snapshot:
    return replace(GOOD, sessions=(SessionFacts("paper", 7, **facts),))


def environment(*, leads: bool = True, **changed: str | None) -> Environment:
    return Environment(7 if leads else 8, leads, {**VARIABLES, **changed})


VIOLATION: Final = Violation(
    "trades", "symbol", 3, "paper (pid 7)", ("counter_7.db",), lives=True, seen_at=NOW
)

# What is wrong, and the one finding it makes: kind, subject, and a word of its hint.
CAUSES: Final[list[tuple[Snapshot, str, str, str]]] = [
    (
        replace(GOOD, orphans=(Orphan(9, ("counter_9.db",), NOW - 1),)),
        *("orphan-shard", "pid 9", "nothing"),
    ),
    (
        replace(GOOD, foreigners=(Foreigner(9, "python x.py", ("counter_9.db",)),)),
        *("foreign-shard", "pid 9", "PROMETHEUS_MULTIPROC_DIR"),
    ),
    (paper(silent_seconds=600.0), "missing-shard", "paper", "doctor"),
    (
        paper(unlinked=(Unlinked(8, ("counter_8.db",)),)),
        *("unlinked-shard", "paper (pid 8)", "restart paper"),
    ),
    (
        replace(GOOD, defective=(Defective("counter_7.db", "torn", "paper"),)),
        *("unreadable-shard", "counter_7.db", "restart paper"),
    ),
    (
        replace(GOOD, defective=(Defective("counter_9.db", "torn", ""),)),
        *("unreadable-shard", "counter_9.db", "end who"),
    ),
    (replace(GOOD, strays=(Stray("notes", "file"),)), "unexpected-file", "notes", "move it"),
    (
        replace(GOOD, directory=DirectoryFacts((1, 3))),
        *("directory-replaced", "/s", "restart"),
    ),
    (
        replace(GOOD, directory=DirectoryFacts(None, "No such file or directory")),
        *("directory-missing", "/s", "mkdir"),
    ),
    (paper(unmoved_seconds=3600.0), "stale-values", "paper", "logs paper"),
    (
        paper(environments=(environment(PEAKTRADE_METRICS_MODE="A"),)),
        *("env-mismatch", "paper (pid 7)", "restart paper"),
    ),
    (
        paper(environments=(environment(PROMETHEUS_DIR=None),)),
        *("env-mismatch", "paper (pid 7)", "restart paper"),
    ),
    (
        paper(environments=(environment(leads=False, PROMETHEUS_DIR="/other"),)),
        *("env-mismatch", "paper (pid 8)", "restart paper"),
    ),
    (
        replace(GOOD, listening=(Listening("0.0.0.0", 8000, "python (pid 7)", "paper"),)),
        *("session-listens", "paper on port 8000", "start_session_http"),
    ),
    (
        replace(GOOD, listening=(Listening("::1", 9111, "python (pid 7)", "legacy"),)),
        *("session-listens", "legacy on port 9111", "restart legacy"),
    ),
    (
        replace(GOOD, listening=(Listening("::1", 9111, "nc (pid 9)"),)),
        *("port-conflict", "::1:9111", "end that process"),
    ),
    (
        replace(GOOD, lost_listeners=(LostListener("0.0.0.0:9111", 5, NOW - 1),)),
        *("listener-lost", "metricsd (pid 5)", "nothing"),
    ),
    (
        replace(GOOD, violations=(VIOLATION,)),
        *("label-violation", "trades of paper (pid 7)", "take the label out"),
    ),
    (
        replace(GOOD, config_changes={"/p/ptsup.toml": "it was changed since"}),
        *("config-changed", "/p/ptsup.toml", "reload"),
    ),
    (
        replace(GOOD, lapses=(Lapse("did not answer", NOW - 2),)),
        *("metricsd-unhealthy", "metricsd", "metricsd.log"),
    ),
    (
        replace(GOOD, failed_claims=(FailedClaim("paper (pid 7)", "no space", NOW - 1, 15.0),)),
        *("claim-failed", "paper (pid 7)", "written"),
    ),
    *(
        (
            replace(GOOD, unrotatable=(Unrotatable(name, "/r/p.log", obstacle, "so", NOW - 1),)),
            *("log-unrotatable", name, word),
        )
        for name, obstacle, word in (
            ("logs", Obstacle.NO_HOLES, "--run-dir"),
            ("paper", Obstacle.NO_SPACE, "make room"),
            ("paper", Obstacle.REMOVED, "ptsup restart paper"),
            ("metricsd", Obstacle.REMOVED, "end its process"),
            ("paper", Obstacle.OTHER, "mend that"),
        )
    ),
]


def test_there_is_a_rule_and_a_cause_for_each_kind() -> None:
    assert {kind for _, kind, _, _ in CAUSES} == set(KINDS)
    assert len(KINDS) == len(set(KINDS)) == len(RULES) == 18
    assert [rule.__name__ for rule in RULES] == [f"find_{k.replace('-', '_')}" for k in KINDS]


def test_where_all_is_as_planned_nothing_is_found() -> None:
    ordinary = replace(
        GOOD,
        sessions=(
            SessionFacts("paper", 7, 599.0, 3599.0, environments=(environment(),)),
            SessionFacts("legacy", 8, 9999.0, None),
            SessionFacts("unknown", 9, None, None, environments=(environment(),)),
        ),
        listening=(Listening("0.0.0.0", 9112, "python (pid 8)", "legacy"),),
    )
    assert find_drift(PLAN, ordinary) == []
    assert find_drift(replace(PLAN, directory_id=None), GOOD) == []


@pytest.mark.parametrize(("snapshot", "kind", "subject", "word"), CAUSES)
def test_each_cause_makes_one_finding_that_says_what_to_do(
    snapshot: Snapshot, kind: str, subject: str, word: str
) -> None:
    (found,) = find_drift(PLAN, snapshot)
    assert (found.kind, found.subject) == (kind, subject)
    assert word in found.hint
    assert found.expected
    assert found.actual
    assert found.since <= NOW


def test_a_small_program_of_a_session_may_run_without_our_variables() -> None:
    helper = environment(leads=False, PEAKTRADE_METRICS_MODE=None, PROMETHEUS_DIR=None)
    assert find_drift(PLAN, paper(environments=(environment(), helper))) == []


def test_the_mismatch_names_what_is_planned_and_what_is() -> None:
    (found,) = find_drift(
        PLAN, paper(environments=(environment(PEAKTRADE_METRICS_MODE="A", PROMETHEUS_DIR=None),))
    )
    assert found.expected == "PEAKTRADE_METRICS_MODE=B, PROMETHEUS_DIR=/s"
    assert found.actual == "PEAKTRADE_METRICS_MODE=A, PROMETHEUS_DIR is not set"


@pytest.mark.parametrize(
    ("mended", "kind"),
    [
        (replace(GOOD, orphans=(Orphan(9, ("counter_9.db",), NOW),)), "orphan-shard"),
        (replace(GOOD, lost_listeners=(LostListener("a", 5, NOW),)), "listener-lost"),
        (replace(GOOD, lapses=(Lapse("hung", NOW - 5, NOW),)), "metricsd-unhealthy"),
        (replace(GOOD, violations=(replace(VIOLATION, lives=False),)), "label-violation"),
    ],
)
def test_what_is_mended_by_itself_is_listed_for_a_minute(mended: Snapshot, kind: str) -> None:
    assert find_expiry(PLAN, mended) == NOW + MENDED_SECONDS
    still = replace(mended, now=NOW + MENDED_SECONDS - 0.1)
    assert [found.kind for found in find_drift(PLAN, still)] == [kind]
    over = replace(mended, now=NOW + MENDED_SECONDS)
    assert find_drift(PLAN, over) == []
    assert find_expiry(PLAN, over) == float("inf")


@pytest.mark.parametrize(
    "lasting",
    [
        replace(GOOD, violations=(VIOLATION,)),
        replace(GOOD, lapses=(Lapse("hung", NOW),)),
        replace(GOOD, failed_claims=(FailedClaim("paper", "no space", NOW, 15.0),)),
    ],
)
def test_what_goes_on_is_listed_as_long_as_it_does(lasting: Snapshot) -> None:
    assert find_expiry(PLAN, lasting) == float("inf")
    assert len(find_drift(PLAN, replace(lasting, now=NOW + 10_000))) == 1


def test_who_has_no_shard_yet_is_looked_at_when_that_has_been_long() -> None:
    assert find_expiry(PLAN, paper(silent_seconds=590.0)) == NOW + 10
    assert find_expiry(PLAN, paper(silent_seconds=600.0)) == float("inf")
    assert find_expiry(PLAN, paper(silent_seconds=None)) == float("inf")


def test_lapses_that_follow_each_other_are_one_finding() -> None:
    twice = replace(GOOD, lapses=(Lapse("hung", NOW - 9, NOW - 8), Lapse("it ended", NOW - 1)))
    (found,) = find_drift(PLAN, twice)
    assert found.actual == "it ended, 2 times lately; it is being started anew"
    assert found.since == NOW - 9


def test_a_series_that_takes_our_name_is_told_as_that() -> None:
    (found,) = find_drift(
        PLAN, replace(GOOD, violations=(replace(VIOLATION, label="__name__", metric="ptsup_up"),))
    )
    assert "that name" in found.actual


def test_a_flood_is_cut_and_counted() -> None:
    flood = tuple(Stray(f"f{number:05}", "file") for number in range(10_000))
    found = find_drift(PLAN, replace(GOOD, strays=flood))
    assert len(found) == KIND_LIMIT + 1
    assert found[-1].kind == "unexpected-file"
    assert found[-1].actual == f"{10_000 - KIND_LIMIT} more like these"


@pytest.mark.parametrize(
    "hostile",
    ["\x1b[2J\x1b]0;owned\x07", "a\nb\rc", "\x00\x9b31m", "\u202egnp.exe", "\udc80", "x" * 65_536],
)
def test_what_comes_from_outside_is_harmless_to_show(hostile: str) -> None:
    for snapshot in (
        replace(GOOD, strays=(Stray(hostile, "file"),)),
        replace(GOOD, foreigners=(Foreigner(9, hostile, (hostile,)),)),
        replace(GOOD, violations=(replace(VIOLATION, metric=hostile, label=hostile),)),
        replace(GOOD, defective=(Defective(hostile, hostile, ""),)),
        replace(GOOD, failed_claims=(FailedClaim(hostile, hostile, NOW, 15.0),)),
    ):
        (found,) = find_drift(PLAN, snapshot)
        texts = (found.subject, found.expected, found.actual, found.hint)
        assert all(text.isprintable() for text in texts)
        assert all(len(text) <= 400 for text in texts)
        "".join(texts).encode()


def test_news_is_what_was_not_there_and_what_is_there_no_more() -> None:
    def finding(subject: str, since: float, actual: str = "") -> Finding:
        return Finding("unexpected-file", subject, "", actual, "", since)

    former = (finding("a", 1.0), finding("b", 2.0))
    change = diff_findings(former, [finding("b", 5.0, "again"), finding("c", 6.0)])
    assert change.findings == (finding("b", 2.0, "again"), finding("c", 6.0))
    assert change.appeared == (finding("c", 6.0),)
    assert change.cleared == (finding("a", 1.0),)
    same = diff_findings(change.findings, change.findings)
    assert (same.appeared, same.cleared) == ((), ())


def test_of_two_findings_about_the_same_the_last_one_counts() -> None:
    first = Finding("claim-failed", "paper", "", "one", "", 1.0)
    change = diff_findings((), [first, replace(first, actual="two")])
    assert [found.actual for found in change.findings] == ["two"]
    assert len(change.appeared) == 1
