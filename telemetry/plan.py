"""What adds up with what, once that is decided, and what came of it: the words of a scrape.

Data alone, and nothing of numpy when it runs: a page can be made of them without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from telemetry.groups import Group

    Floats: TypeAlias = NDArray[np.float64]
    Places: TypeAlias = NDArray[np.intp]

Labels: TypeAlias = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """A line of the page, and the slot its value comes from."""

    name: str
    labels: Labels
    slot: int


class Violation(NamedTuple):
    """A family that carries a label it must not, and who wrote it: pid (0: the dead) and shard."""

    family: str
    label: str
    pid: int
    shard: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family; its samples as the page has them."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The columns of a group that count, and the slot each adds to."""

    group: Group
    columns: Places
    slots: Places  # a slot for each column; of `all` gauges, for each row and column
    counts: int  # so many of the columns only count up


@dataclass(frozen=True, slots=True)
class HistogramSeries:
    """The buckets of one histogram in the order of their bounds, and the slot of its count."""

    buckets: Places
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What adds up with what."""

    families: tuple[Family, ...]
    size: int
    parts: tuple[Part, ...]
    histograms: tuple[HistogramSeries, ...]
    # Families that shards disagree about, by kind or mode; added up one by one, as stock does.
    disputed: Mapping[str, tuple[Part, ...]]
    violations: Mapping[Violation, int]  # and how many series


@dataclass(frozen=True, slots=True)
class Totals:
    """The values of a plan's slots, and which of them there are."""

    plan: Plan
    values: list[float]
    present: list[bool]
    disputed: tuple[tuple[Family, tuple[float, ...]], ...] = ()
