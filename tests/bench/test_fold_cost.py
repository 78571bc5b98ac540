"""What it costs to fold a dead session: claims of one and of many, beside living sessions."""

from __future__ import annotations

import time
from typing import Final

import pytest

from bench.peers import print_section, print_table, render_spread, scale
from bench.population import FIRST_DEAD, Population, build_counter_keys, make_template
from telemetry.claim import claim
from telemetry.collector import ShardCollector, open_collector

pytestmark = pytest.mark.timeout(300)

LIVING: Final = 50
SERIES: Final = 100
# So many dead sessions at once, and how often.
BATCHES: Final = {1: scale(200, 5), 64: scale(20, 3)}


def test_fold_cost() -> None:
    print_section(
        "A fold",
        f"Dead sessions x {SERIES}, folded one at a time and 64 at a time (what one fold takes at"
        f" most), beside {LIVING} living ones; the base is on the disk (`fsync`) each time."
        " Milliseconds: median (least … most).",
    )
    rows = []
    with Population(SERIES) as population:
        population.add_living(LIVING)
        collector = open_collector(population.ours)
        try:
            times: dict[int, list[float]] = {batch: [] for batch in BATCHES}
            pid = FIRST_DEAD
            for number in range(max(BATCHES.values())):
                population.bump()
                for batch, often in BATCHES.items():
                    if number < often:
                        _bury(population, pid, batch)
                        pid += batch
                        times[batch].append(_time_fold(collector))
        finally:
            collector.close()
    for batch, seconds in times.items():
        each = [value / batch for value in seconds]
        rows.append(
            [f"{batch} ({len(seconds)} folds)", render_spread(seconds), render_spread(each)]
        )
    print_table(("dead sessions", "a fold", "a dead session"), rows)


def _bury(population: Population, pid: int, count: int) -> None:
    template = make_template("counter", build_counter_keys(SERIES))
    for died in range(pid, pid + count):
        template.write(population.ours / f"counter_{died}.db", died % 1000)
        claim(population.ours, died, pinned=True)


def _time_fold(collector: ShardCollector) -> float:
    collector.render("")
    began = time.perf_counter()
    assert collector.fold()
    seconds = time.perf_counter() - began
    assert not collector.fold()
    return seconds
