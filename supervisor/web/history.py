"""What the last minutes of metricsd's page say: rates for the charts, who signalled last; pure.

A sample that could not be taken is a gap, and never a zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Series: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and its labels, sorted."""

SIGNALS: Final = "peaktrade_strategy_signals_total"
EXPOSURE: Final = "peaktrade_strategy_position_gross_exposure"
_SECONDS_PER_MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: of a family, a line for each value of a label, added up (or the largest)."""

    id: str
    title: str
    unit: str
    family: str
    label: str
    rate: bool  # of a counter, per minute; else the largest of a gauge


CHARTS: Final = (
    Chart("signals", "Signals", "per minute", SIGNALS, "signal", rate=True),
    Chart(
        "decisions",
        "Decisions",
        "per minute",
        "peaktrade_strategy_decisions_total",
        "decision",
        rate=True,
    ),
    Chart("blocks", "Blocks", "per minute", "peaktrade_risk_blocks_total", "reason", rate=True),
    Chart(
        "limits",
        "Limit utilization",
        "of 1",
        "peaktrade_risk_limit_utilization",
        "limit_id",
        rate=False,
    ),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the page said at `at` (monotonic seconds); None when it could not be had."""

    at: float
    values: Mapping[Series, float] | None


@dataclass(frozen=True, slots=True)
class LastSignal:
    """The signal a strategy gave last, as far as it was watched."""

    signal: str
    at: float


def build_charts(samples: Sequence[Sample], now: float) -> list[dict[str, Any]]:
    """Build what each chart draws: ages in seconds (0 is now), and a line of values per name."""
    return [_build_chart(chart, samples, now) for chart in CHARTS]


def _build_chart(chart: Chart, samples: Sequence[Sample], now: float) -> dict[str, Any]:
    columns = list(_find_columns(chart, samples))
    names = sorted({name for column in columns if column for name in column})
    return {
        "id": chart.id,
        "title": chart.title,
        "unit": chart.unit,
        "ages": [round(sample.at - now, 1) for sample in samples],
        "lines": [
            {
                "name": name,
                "values": [None if c is None else round(c.get(name, 0.0), 6) for c in columns],
            }
            for name in names
        ],
    }


def _find_columns(chart: Chart, samples: Sequence[Sample]) -> Iterator[dict[str, float] | None]:
    former: Sample | None = None
    for sample in samples:
        if sample.values is None:
            yield None
        elif not chart.rate:
            yield _find_largest(chart, sample.values)
        elif former is None or former.values is None:
            yield None
        else:
            minutes = (sample.at - former.at) / _SECONDS_PER_MINUTE
            yield _find_rates(chart, former.values, sample.values, minutes)
        former = sample


def _find_rates(
    chart: Chart, before: Mapping[Series, float], after: Mapping[Series, float], minutes: float
) -> dict[str, float] | None:
    """Find increases per minute; None when a total fell, as it does when all is begun anew."""
    rates: dict[str, float] = {}
    for series, value in after.items():
        if series[0] != chart.family:
            continue
        # A series that was not there began at 0.
        grown = value - before.get(series, 0.0)
        if grown < 0 or minutes <= 0:
            return None
        name = dict(series[1]).get(chart.label, "")
        rates[name] = rates.get(name, 0.0) + grown / minutes
    return rates


def _find_largest(chart: Chart, values: Mapping[Series, float]) -> dict[str, float]:
    largest: dict[str, float] = {}
    for (family, labels), value in values.items():
        if family == chart.family:
            name = dict(labels).get(chart.label, "")
            largest[name] = max(value, largest.get(name, value))
    return largest


def find_signals(before: Sample | None, after: Sample) -> dict[str, LastSignal]:
    """Find which strategies signalled between two samples, and what; the busiest signal wins."""
    if before is None or before.values is None or after.values is None:
        return {}
    grown: dict[str, tuple[float, str]] = {}
    for series, value in after.values.items():
        increase = value - before.values.get(series, 0.0)
        if series[0] != SIGNALS or increase <= 0:
            continue
        labels = dict(series[1])
        strategy = labels.get("strategy_id", "")
        grown[strategy] = max(grown.get(strategy, (0.0, "")), (increase, labels.get("signal", "")))
    return {strategy: LastSignal(signal, after.at) for strategy, (_, signal) in grown.items()}


def find_exposures(values: Mapping[Series, float], strategy: str) -> dict[str, float]:
    """Find a strategy's gross exposure in each currency."""
    return {
        dict(labels).get("ccy", ""): value
        for (family, labels), value in values.items()
        if family == EXPOSURE and dict(labels).get("strategy_id") == strategy
    }
