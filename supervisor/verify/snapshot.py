"""What one verification saw: questions, answers, and the plan they are held against. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from supervisor.scrape_config import Target


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status and a JSON body (None: no JSON), or in words why nothing did."""

    status: int = 0
    body: Any = None
    error: str = ""

    @property
    def problem(self) -> str:
        """Say why this is no usable answer; empty when it is one."""
        if self.error:
            return self.error
        return "" if self.status == 200 else f"answers {self.status}"


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and what came of it."""

    expression: str
    answer: Answer

    @property
    def values(self) -> dict[tuple[tuple[str, str], ...], float] | None:
        """Give value by labels; None when there was no answer to the query."""
        return read_vector(self.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grafana:
    """What Grafana said; `authorized` tells whether credentials were sent."""

    url: str
    authorized: bool
    health: Answer
    datasource: Answer
    proxied_up: Answer | None = None  # not asked without a data source


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One verification. `status` is the document of a supervisor that runs, or None."""

    prometheus_url: str
    window_seconds: float
    targets: Sequence[Target]
    pages: Mapping[Target, Answer]
    build: Answer
    status: Mapping[str, Any] | None = None
    absence: str = ""  # why there is no status
    modes: Mapping[str, str] = field(default_factory=dict)  # as the session's own environment says
    active: Answer | None = None  # Prometheus' targets
    up: Sequence[Query] = ()  # asked again and again, over the window
    up_seconds: float = 0.0  # from the first of them to the last
    families: Query | None = None
    first: Query | None = None  # every counter, at the beginning
    last: Query | None = None  # and at the end
    shown: Sequence[Query] = ()  # for the evidence: the runbook's own
    grafana: Grafana | None = None


def read_vector(answer: Answer) -> dict[tuple[tuple[str, str], ...], float] | None:
    """Read the answer to an instant query as value by labels; None when it is none."""
    if answer.problem:
        return None
    try:
        return {
            tuple(sorted(entry["metric"].items())): float(entry["value"][1])
            for entry in answer.body["data"]["result"]
        }
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None


def read_active(answer: Answer | None) -> list[dict[str, Any]] | None:
    """Read Prometheus' active targets; None when the answer is something else."""
    if answer is None or answer.problem:
        return None
    try:
        active = answer.body["data"]["activeTargets"]
        return [dict(target) for target in active if isinstance(target["labels"], dict)]
    except (KeyError, TypeError, ValueError):
        return None
