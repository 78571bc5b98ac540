"""Verdicts as lines for a script or a person, and as one JSON document. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from telemetry.plain import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from supervisor.verify.checks import Verdict
    from supervisor.verify.snapshot import Query, Snapshot

SCHEMA: Final = "ptsup.verify/1"


def find_result(verdicts: Sequence[Verdict]) -> str:
    """Find the result: PASS when there is something and all of it passed."""
    return "PASS" if verdicts and all(verdict.passed for verdict in verdicts) else "FAIL"


def render_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Write `PASS|id|message` or `FAIL|id|message` and `NEXT|id|what to do`, then the result."""
    for verdict in verdicts:
        word = "PASS" if verdict.passed else "FAIL"
        yield escape(f"{word}|{verdict.id}|{verdict.message}")
        if not verdict.passed:
            yield escape(f"NEXT|{verdict.id}|{verdict.next}")
    yield f"RESULT={find_result(verdicts)}"


def build_document(seen: Snapshot, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Build the JSON document: the verdicts, and the queries with what came of them."""
    return {
        "schema": SCHEMA,
        "result": find_result(verdicts),
        "prometheus": seen.prometheus_url,
        "grafana": seen.grafana.url if seen.grafana else None,
        "window_seconds": seen.window_seconds,
        "verdicts": [
            {"id": v.id, "passed": v.passed, "message": v.message, "next": v.next or None}
            for v in verdicts
        ],
        "queries": [build_query(query) for query in find_queries(seen)],
    }


def find_queries(seen: Snapshot) -> list[Query]:
    """Find the queries worth showing, as they were answered last."""
    up = seen.up[-1:]
    return [query for query in (*up, seen.families, seen.last, *seen.shown) if query]


def build_query(query: Query) -> dict[str, Any]:
    """Build one query's part: its series, or the problem."""
    values = query.values
    return {
        "query": query.expression,
        "problem": query.answer.problem or None,
        "result": None
        if values is None
        else [{"metric": dict(labels), "value": value} for labels, value in values.items()],
    }
