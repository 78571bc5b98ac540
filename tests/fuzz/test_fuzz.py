"""Damaged shards by the thousand: nothing raises, hangs, leaks or harms the shard beside it.

`make test` takes some thousands of them; `make fuzz` sets PTSUP_FUZZ_SHARDS for all 100,000.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import string
import struct
import time
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import fuzz_shards
from collecting import close
from fuzz_shards import Corpus, build_key
from telemetry.collector import open_collector
from telemetry.policy import LabelPolicy
from telemetry.shards import (
    HEADER_BYTES,
    Defect,
    Key,
    parse_key,
    parse_slots,
    parse_used,
    read_shard,
    render_shard,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHARDS = int(os.environ.get("PTSUP_FUZZ_SHARDS", "3000"))
KEPT_BYTES = 150_000
SEED = int(os.environ.get("PTSUP_FUZZ_SEED", "1"))
# A leak of 100 bytes a shard is to be seen; what is kept up to a bound is none.
LEAK_BYTES = 80
KINDS = ("counter", "gauge", "histogram", "summary")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
# Nobody has so high a pid.
DEAD = 2**31 - 1


class Clock:
    """Counts the slowest step, in this thread's own seconds: a busy machine is no hang."""

    def __init__(self) -> None:
        self.slowest = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        before = time.thread_time()
        yield
        self.slowest = max(self.slowest, time.thread_time() - before)


def measure_growth(
    step: Callable[[], None], *, count: int, settle: Callable[[], object] = gc.collect
) -> float:
    """Measure by how many bytes a step grows the heap: over the last 8,000, or four in five."""
    warm_up = max(count // 5, count - 8000)
    for _ in range(warm_up):
        step()
    gc.collect()
    tracemalloc.start()
    try:
        # What was allocated before is unknown to it: only what stays of the new counts.
        for _ in range(count - warm_up):
            step()
        settle()
        gc.collect()
        snapshot = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    # The corpus is this test's own, and grows up to a bound.
    snapshot = snapshot.filter_traces([tracemalloc.Filter(False, fuzz_shards.__file__)])
    for found in snapshot.statistics("lineno")[:5]:
        print(found)  # shown when it was too much
    # pathlib interns the parts of each path, and the table of all such strings doubles now and
    # then: one block, of megabytes, which is nobody's leak.
    tables = [each.size for each in snapshot.traces if "pathlib" in each.traceback[-1].filename]
    grown = sum(trace.size for trace in snapshot.traces) - max(tables, default=0)
    return grown / (count - warm_up)


def test_the_measure_sees_a_leak_of_100_bytes_a_step() -> None:
    kept = []
    assert measure_growth(lambda: kept.append(bytes(67)), count=1000) > LEAK_BYTES  # 100 in all
    assert measure_growth(kept.clear, count=1000) < LEAK_BYTES


@pytest.mark.timeout(600)
def test_the_parsers_take_any_bytes(tmp_path: Path) -> None:
    corpus = Corpus(random.Random(SEED))
    mutants = corpus.mutants(SHARDS)
    path = tmp_path / "counter_1.db"
    clock = Clock()
    defects: Counter[object] = Counter()

    def step() -> None:
        shard = next(mutants)
        with clock.step():
            outcome = parse_whole(shard)
        path.write_bytes(shard)
        with clock.step():
            entries, defect = read_shard(path)
        assert (len(entries), defect) == outcome[:2]
        defects[defect] += 1
        corpus.note(shard, outcome)

    growth = measure_growth(step, count=SHARDS)
    print(
        f"seed {SEED}: {SHARDS} shards, {corpus.outcomes} outcomes, {dict(defects)}, "
        f"slowest {clock.slowest:.4f} s, {growth:.1f} bytes of growth a shard"
    )
    assert clock.slowest < 1
    assert growth < LEAK_BYTES
    assert {None, Defect.HEADER, Defect.TRUNCATED, Defect.LENGTH} <= set(defects)


def parse_whole(shard: bytes) -> tuple[object, ...]:
    """Parse a shard in all the ways there are, and check what must be true of any result."""
    used, defect = parse_used(shard)
    if defect is not None or not used:
        assert used == 0
        return 0, defect
    slots, end, defect = parse_slots(memoryview(shard), HEADER_BYTES, used)
    assert end >= HEADER_BYTES
    assert (defect is None) == (end >= used)
    assert all(value % 8 == 0 and value + 16 <= min(len(shard), used) for _, value in slots)
    # Going on from a known entry finds the same as beginning anew.
    middle = slots[len(slots) // 2][1] + 16 if slots else HEADER_BYTES
    tail, *rest = parse_slots(shard, middle, used)
    assert slots[len(slots) // 2 + 1 :] == tail
    assert rest == [end, defect]
    keys = [parse_key(raw, KINDS[at // 8 % 4]) for raw, at in slots]
    for key in keys:
        assert key is None or is_printable(key)
    return len(slots), defect, tuple(key is None for key in keys)


def is_printable(key: Key) -> bool:
    """Check that a key can stand on a page, whatever name it has, without breaking a line."""
    names = (key.family, key.name, *(name for name, _ in key.labels))
    texts = (*names, key.help, *(value for _, value in key.labels))
    return all(names) and not any("\n" in name for name in names) and bool("".join(texts).encode())


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("names", "renewed"),
    [
        # What was removed leaves nothing behind, however long the collector lives.
        (("gauge_livemax", "gauge_liveall", "gauge_livemostrecent"), None),
        # What these counted stays on the page, as it must: now and then a new collector begins.
        (("counter", "histogram", "summary", "gauge_all", "gauge_mostrecent"), 16),
    ],
    ids=["live", "lasting"],
)
def test_the_page_keeps_the_good_shard_whatever_lies_beside_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    names: tuple[str, ...],
    renewed: int | None,
) -> None:
    # Thousands of warnings, which the test's own log would keep.
    caplog.set_level(logging.CRITICAL, "telemetry")
    # What is kept for later is bounded; with small bounds it is full before it is measured.
    monkeypatch.setattr("telemetry.layouts._KEYS_SLACK", 64)
    monkeypatch.setattr("telemetry.layouts._CANDIDATE_LENGTHS", 8)
    directory = tmp_path / "prom_multiproc"
    directory.mkdir()
    write_good(directory)
    collectors = [open_collector(directory, policy=LabelPolicy())]

    def end() -> None:
        close(collectors.pop())

    accepts = ("", OPENMETRICS)
    good = {accept: find_good(collectors[-1].render(accept).body) for accept in accepts}
    for lines in good.values():
        assert {b'good_jobs_total{reason="runtime:halt"} 3.0', b"good_depth -1.5"} <= lines
    corpus = Corpus(random.Random(SEED + 1))
    mutants = corpus.mutants(SHARDS // 2)
    places = random.Random(SEED)
    path = directory / "none"
    path.touch()
    clock = Clock()
    number = 0

    def step() -> None:
        nonlocal number, path
        number += 1
        shard = next(mutants)
        if renewed and number % renewed == 0:
            end()
            collectors.append(open_collector(directory, policy=LabelPolicy()))
        if places.random() < 0.8:
            path.unlink()
            pid = places.choice((DEAD, os.getpid(), places.randint(2**30, DEAD)))
            path = directory / f"{places.choice(names)}_{pid}.db"
        # Otherwise another content in the same file: it shrinks, grows, and its values change.
        path.write_bytes(shard)
        accept = accepts[number % 8 == 0]
        with clock.step():
            page = collectors[-1].render(accept)
        assert find_good(page.body) == good[accept], shard
        assert page.body.endswith(b"# EOF\n" if accept else b"\n")
        if number % 64 == 1:
            assert_well_formed(page.body, shard)
        corpus.note(shard, (path.name.split("_")[0], *parse_whole(shard)))

    # One that lives on is measured with all it keeps.
    growth = measure_growth(step, count=SHARDS // 2, settle=end if renewed else gc.collect)
    if collectors:
        end()
    print(
        f"seed {SEED}: {SHARDS // 2} shards, {corpus.outcomes} outcomes, "
        f"slowest {clock.slowest:.4f} s, {growth:.1f} bytes of growth a shard"
    )
    assert clock.slowest < 1
    # What it keeps for later has bounds, but is not nothing; a leak has none.
    assert growth < LEAK_BYTES + KEPT_BYTES / (SHARDS // 2)


def write_good(directory: Path) -> None:
    """Write shards of a process that lives, as it lives: this one."""
    pid = os.getppid()
    counters = [(build_key("good_jobs", "good_jobs_total", {"reason": "runtime:halt"}), 3.0, 0.0)]
    gauges = [(build_key("good_depth", "good_depth", {}), -1.5, 0.0)]
    (directory / f"counter_{pid}.db").write_bytes(render_shard(counters))
    (directory / f"gauge_livemax_{pid}.db").write_bytes(render_shard(gauges))


def find_good(page: bytes) -> set[bytes]:
    return {line for line in page.split(b"\n") if b"good_" in line and b"fz_" not in line}


def assert_well_formed(page: bytes, shard: bytes) -> None:
    """Check that the page is what a Prometheus can read: the library's own parser does."""
    allowed = set(string.ascii_letters + string.digits + "_:")
    for family in text_string_to_metric_families(page.decode()):
        assert set(family.name) <= allowed, shard


# Properties

TEXTS = st.text(max_size=20)
KEYS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_parse(data: bytes) -> None:
    parse_whole(data)


@settings(max_examples=200)
@given(KEYS | st.tuples(TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=3), TEXTS))
def test_any_document_is_a_key_or_none(document: Any) -> None:
    for kind in KINDS:
        key = parse_key(json.dumps(document).encode(), kind)
        assert key is None or (
            [key.family, key.name, dict(key.labels), key.help] == list(document)
            and is_printable(key)
        )


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.floats(), st.floats()), max_size=8),
    st.integers(0, 300),
)
def test_what_is_written_is_read(entries: list[tuple[bytes, float, float]], room: int) -> None:
    shard = render_shard(entries) + bytes(room)
    used, defect = parse_used(shard)
    assert (used, defect) == (len(shard) - room, None)
    slots, end, defect = parse_slots(shard, HEADER_BYTES, used)
    assert (end, defect) == (used, None)
    doubles = [struct.unpack_from("=dd", shard, at) for _, at in slots]
    again = [(key, *pair) for (key, _), pair in zip(slots, doubles, strict=True)]
    assert render_shard(again) == shard[:used]
