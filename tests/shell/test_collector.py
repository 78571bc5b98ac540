"""The scrape and the fold over real shards: good, bad, moving and vanishing."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import CollectorRegistry

from telemetry import collector as collector_room
from telemetry import retired as retired_room
from telemetry.answers import Page
from telemetry.collector import (
    Merge,
    ShardCollector,
    open_collector,
)
from telemetry.fold import lock_retired, read_base
from telemetry.nothing import NoSums
from telemetry.own_metrics import Statement
from telemetry.page import Exposition, Format
from telemetry.policy import build_policy
from telemetry.processes import read_identity
from telemetry.readings import Readings
from telemetry.retired import RetiredHeldError
from telemetry.shards import RETIRED, SHARD_LIMIT_BYTES, list_directory, render_shard
from telemetry.single_flight import SingleFlight
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from telemetry.shards import Listing

WRITER = Path(__file__).parents[1] / "children" / "metricsd_writer.py"
NOBODY = 2147483647  # a pid that no process has


def write(directory: Path, count: int, gauge: int = 1) -> int:
    """Write one shard of every kind from a process that ends; returns its pid."""
    directory.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, WRITER, directory, str(count), str(gauge)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.communicate(timeout=20)
    return process.pid


def key(name: str, family: str = "jobs", labels: str = "{}") -> bytes:
    return f'["{family}", "{name}", {labels}, "Help."]'.encode()


def write_counter(path: Path, *values: float) -> None:
    """Write a counter shard with series `jobs_total{reason="0"}`, `…1`, and so on."""
    entries = [
        (key("jobs_total", labels=f'{{"reason": "{number}"}}'), value, 0.0)
        for number, value in enumerate(values)
    ]
    # In place, as a process does it that has the file mapped.
    data = render_shard(entries)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate(max(len(data), 4096))


def claim(directory: Path, number: int, *names: str, opened: bool = False) -> Path:
    """Move shards into a claim."""
    path = directory / RETIRED / f"{'open' if opened else 'claim'}-{number}"
    path.mkdir(parents=True)
    for name in names:
        (directory / name).rename(path / name)
    return path


def scrape(collector: ShardCollector) -> dict[str, float]:
    """Render the page and read its samples."""
    lines = collector.render("").body.decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {series: float(value) for series, _, value in pairs}


def jobs(collector: ShardCollector) -> dict[str, float]:
    return {s: v for s, v in scrape(collector).items() if s.startswith("jobs")}


def reasons(collector: ShardCollector) -> dict[str, float]:
    found = re.compile(r'ptsup_shards_unreadable\{reason="(.*)"\}')
    return {
        match[1]: value
        for series, value in scrape(collector).items()
        if (match := found.fullmatch(series))
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "prom_multiproc"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close every collector in the end: each holds descriptors, which others would be short of."""
    opened: list[ShardCollector] = []
    opening = ShardCollector.open

    def open_and_note(collector: ShardCollector) -> None:
        opened.append(collector)
        opening(collector)

    monkeypatch.setattr(ShardCollector, "open", open_and_note)
    yield
    for collector in opened:
        collector.close()


# -- The page ----------------------------------------------------------------------------------


def test_the_page_is_what_the_library_makes_of_the_shards(directory: Path) -> None:
    write(directory, 3, 2)
    write(directory, 4, 7)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    stock = generate_latest(registry)
    page = open_collector(directory).render("")
    ours = [line for line in page.body.splitlines() if b"ptsup_" not in line]
    assert sorted(ours) == sorted(stock.splitlines())
    assert b'shop_sales_total{check="tea"} 7.0' in page.body
    assert b"shop_queue 7.0" in page.body


def test_the_accept_header_chooses_the_format(directory: Path) -> None:
    write(directory, 3)
    collector = open_collector(directory)
    openmetrics = collector.render("application/openmetrics-text;version=1.0.0,*/*;q=0.1")
    assert openmetrics.content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.body.endswith(b"# EOF\n")
    assert openmetrics.body.count(b"# EOF") == 1
    plain = collector.render("text/html")
    assert plain.content_type == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    "accept", ["text/plain;version=abc", "application/openmetrics-text;version=1.x", ";;==,", "é"]
)
def test_a_senseless_accept_header_gets_plain_text(directory: Path, accept: str) -> None:
    assert open_collector(directory).render(accept).content_type.startswith("text/plain")


def test_a_label_that_is_not_allowed_is_left_off_and_counted(directory: Path) -> None:
    entries = [
        (key("jobs_total", labels='{"reason": "a"}'), 1.0, 0.0),
        (key("trades_total", "trades", labels='{"symbol": "X"}'), 2.0, 0.0),
        (key("ptsup_shards", "ptsup_shards", labels='{"state": "live"}'), 3.0, 0.0),
    ]
    (directory / f"counter_{os.getpid()}.db").write_bytes(render_shard(entries))
    collector = open_collector(directory, policy=build_policy([]))
    for _ in range(2):
        page = scrape(collector)
    assert page["ptsup_label_violations_total"] == 2
    assert page['jobs_total{reason="a"}'] == 1
    assert page['ptsup_shards{state="live"}'] == 1
    assert not [series for series in page if "trades" in series or "symbol" in series]
    told = {(v["metric"], v["label"], v["pid"]) for v in collector.describe()["label_violations"]}
    assert told == {("trades", "symbol", os.getpid()), ("ptsup_shards", "__name__", os.getpid())}


def test_every_series_that_is_left_off_is_counted_once(directory: Path) -> None:
    path = directory / f"counter_{NOBODY}.db"
    entries = [
        (key("trades_total", "trades", labels=f'{{"symbol": "{name}"}}'), 2.0, 0.0)
        for name in "XYZ"
    ]
    path.write_bytes(render_shard(entries[:1]))
    collector = open_collector(directory, policy=build_policy([]))
    assert scrape(collector)["ptsup_label_violations_total"] == 1
    path.write_bytes(render_shard(entries[:2]))
    assert scrape(collector)["ptsup_label_violations_total"] == 2
    claim(directory, 1, path.name)
    assert scrape(collector)["ptsup_label_violations_total"] == 2
    assert collector.fold()
    assert scrape(collector)["ptsup_label_violations_total"] == 2
    # Of the dead that nobody has seen alive, the base is the first to tell.
    path.write_bytes(render_shard(entries))
    claim(directory, 2, path.name)
    assert collector.fold()
    assert scrape(collector)["ptsup_label_violations_total"] == 3


def test_what_the_supervisor_says_is_shown_while_it_lives(directory: Path, tmp_path: Path) -> None:
    handed = tmp_path / "metrics.prom"
    text = (
        "# HELP ptsup_session_up Up.\n# TYPE ptsup_session_up gauge\n"
        'ptsup_session_up{session="a"} 1\n'
    )
    collector = open_collector(directory, supervisor=handed)
    assert scrape(collector)["ptsup_supervisor_up"] == 0
    handed.write_text(f"# ptsup {os.getpid()} {read_identity(os.getpid())}\n{text}")
    assert scrape(collector)["ptsup_supervisor_up"] == 1
    assert scrape(collector)['ptsup_session_up{session="a"}'] == 1
    for garbage in (f"# ptsup {os.getpid()} 1@else\n{text}", "# ptsup", "\xff\n", ""):
        handed.write_text(garbage)
        page = scrape(collector)
        assert page["ptsup_supervisor_up"] == 0, garbage
        assert 'ptsup_session_up{session="a"}' not in page


# -- What is wrong with a shard ------------------------------------------------------------------


def test_a_garbage_shard_is_left_out_and_named_once(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_counter(directory / "counter_1.db", 3)
    (directory / "counter_4711.db").write_bytes(b"\xff" * 3)
    (directory / "gauge_max_4711.db").write_bytes(
        b"\x40\0\0\0\0\0\0\0\xff\xff\xff\x7f" + b"\0" * 64
    )
    collector = open_collector(directory)
    for _ in range(3):
        assert jobs(collector) == {'jobs_total{reason="0"}': 3}
        assert reasons(collector) == {"truncated": 1, "length": 1}
    messages = sorted(record.getMessage() for record in caplog.records)
    assert [message.partition(",")[0] for message in messages] == [
        "cannot use counter_4711.db",
        "cannot use gauge_max_4711.db",
    ]


def test_a_shard_not_yet_written_is_no_defect_while_its_process_lives(directory: Path) -> None:
    write_counter(directory / "counter_1.db", 3)
    (directory / f"gauge_max_{os.getpid()}.db").touch()
    (directory / f"gauge_min_{os.getpid()}.db").write_bytes(b"\0" * 65536)
    collector = open_collector(directory)
    assert reasons(collector) == {}
    (directory / f"gauge_max_{NOBODY}.db").touch()
    assert reasons(collector) == {"empty": 1}


def test_a_counter_that_falls_is_held_until_it_passes_its_last_value(directory: Path) -> None:
    path = directory / "counter_1.db"
    write_counter(path, 5, 1)
    collector = open_collector(directory)
    first, second = 'jobs_total{reason="0"}', 'jobs_total{reason="1"}'
    assert jobs(collector) == {first: 5, second: 1}
    for value in (4, float("nan"), -1):
        write_counter(path, value, 2)
        assert jobs(collector) == {first: 5, second: 2}
        assert reasons(collector) == {"fell" if value == 4 else "value": 1}
    write_counter(path, 6, 2)
    assert jobs(collector) == {first: 6, second: 2}
    assert reasons(collector) == {}


def test_a_series_that_never_had_a_good_value_is_not_there(directory: Path) -> None:
    write_counter(directory / "counter_1.db", float("nan"), 2)
    collector = open_collector(directory)
    assert jobs(collector) == {'jobs_total{reason="1"}': 2}
    write_counter(directory / "counter_2.db", 1)
    assert jobs(collector) == {'jobs_total{reason="0"}': 1, 'jobs_total{reason="1"}': 2}


def test_a_truncated_shard_keeps_its_last_good_values(directory: Path) -> None:
    path = directory / "counter_1.db"
    write_counter(path, 5, 1)
    collector = open_collector(directory)
    before = jobs(collector)
    os.truncate(path, 20)
    assert jobs(collector) == before
    assert reasons(collector) == {"truncated": 1}
    write_counter(path, 6, 1)
    assert jobs(collector)['jobs_total{reason="0"}'] == 6


def test_a_shard_that_grows_is_followed(directory: Path) -> None:
    path, other = directory / "counter_1.db", directory / "counter_2.db"
    collector = open_collector(directory)
    for count in range(1, 5):
        write_counter(path, *range(1, count + 1))
        write_counter(other, *range(1, count))
        expected = {f'jobs_total{{reason="{n}"}}': 2 * (n + 1) for n in range(count - 1)}
        expected[f'jobs_total{{reason="{count - 1}"}}'] = count
        assert jobs(collector) == expected


# -- Shards that move ----------------------------------------------------------------------------


def test_a_missing_directory_is_a_page_without_series_until_it_comes(tmp_path: Path) -> None:
    directory = tmp_path / "prom_multiproc"
    collector = open_collector(directory)
    assert jobs(collector) == {}
    assert not directory.exists()
    directory.mkdir()
    write_counter(directory / "counter_1.db", 3)
    assert jobs(collector) == {'jobs_total{reason="0"}': 3}


def test_the_totals_stay_when_the_directory_goes(directory: Path, tmp_path: Path) -> None:
    write_counter(directory / "counter_1.db", 3)
    write_counter(directory / "counter_2.db", 4)
    claim(directory, 1, "counter_2.db")
    collector = open_collector(directory)
    assert collector.fold()
    before = jobs(collector)
    directory.rename(tmp_path / "away")
    assert jobs(collector) == before == {'jobs_total{reason="0"}': 7}
    assert "No such file" in collector.describe()["directory"]
    directory.mkdir()  # another one, and empty
    write_counter(directory / "counter_3.db", 1)
    assert jobs(collector) == {'jobs_total{reason="0"}': 8}
    assert collector.fold()  # which writes the base anew
    assert read_base(directory / RETIRED).claim == 1
    assert jobs(collector) == {'jobs_total{reason="0"}': 8}


def test_live_gauges_of_the_dead_go_while_the_directory_is_gone(
    directory: Path, tmp_path: Path
) -> None:
    gauges = {pid: f"jobs_{name}" for pid, name in ((os.getpid(), "living"), (NOBODY, "dead"))}
    for pid, name in gauges.items():
        shard = render_shard([(key(name, name), 3.0, 0.0)])
        (directory / f"gauge_livesum_{pid}.db").write_bytes(shard)
    write_counter(directory / f"counter_{NOBODY}.db", 7)
    collector = open_collector(directory)
    assert jobs(collector) == {"jobs_living": 3, "jobs_dead": 3, 'jobs_total{reason="0"}': 7}
    directory.rename(tmp_path / "away")  # where nobody can mark the dead
    assert jobs(collector) == {"jobs_living": 3, 'jobs_total{reason="0"}': 7}
    (tmp_path / "away").rename(directory)
    assert jobs(collector)["jobs_living"] == 3


def test_a_shard_counts_once_wherever_it_lies(directory: Path) -> None:
    for pid, value in ((1, 1), (2, 2), (3, 4)):
        write_counter(directory / f"counter_{pid}.db", value)
    collector = open_collector(directory)
    expected = {'jobs_total{reason="0"}': 7.0}
    assert jobs(collector) == expected
    opened = claim(directory, 1, "counter_1.db", opened=True)
    assert jobs(collector) == expected
    claim(directory, 1, "counter_2.db")
    assert jobs(collector) == expected
    (directory / "counter_1.db").hardlink_to(opened / "counter_1.db")  # being put back
    assert jobs(collector) == expected
    assert collector.fold()
    assert jobs(collector) == expected
    assert not collector.fold()
    assert sorted(p.name for p in (directory / RETIRED).iterdir()) == ["base", "open-1"]


@pytest.mark.parametrize("obstacle", ["file", "link"])
def test_a_retired_that_is_no_directory_costs_the_flat_shards_nothing(
    directory: Path, tmp_path: Path, obstacle: str
) -> None:
    if obstacle == "file":
        (directory / RETIRED).touch()
    else:
        (tmp_path / "elsewhere" / "claim-1").mkdir(parents=True)
        write_counter(tmp_path / "elsewhere" / "claim-1" / "counter_9.db", 100)
        (directory / RETIRED).symlink_to(tmp_path / "elsewhere")
    collector = open_collector(directory)
    for value in (1, 2):
        write_counter(directory / f"counter_{value}.db", value)
        assert scrape(collector)['jobs_total{reason="0"}'] == [1, 3][value - 1]
        assert not collector.fold()


def test_a_retired_that_was_removed_is_made_and_filled_again(directory: Path) -> None:
    write_counter(directory / "counter_1.db", 1)
    write_counter(directory / "counter_2.db", 2)
    claim(directory, 1, "counter_1.db")
    collector = open_collector(directory)
    assert collector.fold()
    shutil.rmtree(directory / RETIRED)
    claim(directory, 2, "counter_2.db")
    assert jobs(collector) == {'jobs_total{reason="0"}': 3}
    assert collector.fold()
    assert jobs(collector) == {'jobs_total{reason="0"}': 3}
    with pytest.raises(RetiredHeldError):
        open_collector(directory)
    collector.close()
    assert jobs(open_collector(directory)) == {'jobs_total{reason="0"}': 3}


def test_of_a_pid_that_died_twice_the_later_gauges_stand(directory: Path) -> None:
    collector = open_collector(directory)
    for number, value in ((1, 5.0), (2, 3.0)):
        gauge = render_shard([(key("jobs_own", "jobs_own"), value, 0.0)])
        (directory / "gauge_all_1.db").write_bytes(gauge)
        claim(directory, number, "gauge_all_1.db", opened=number == 2)
        assert jobs(collector) == {'jobs_own{pid="1"}': value}
    (directory / RETIRED / "open-2").rename(directory / RETIRED / "claim-2")
    assert collector.fold()
    assert jobs(collector) == {'jobs_own{pid="1"}': 3.0}


def test_live_gauges_count_in_the_flat_directory_only(directory: Path) -> None:
    gauge = render_shard([(key("jobs_now", "jobs_now"), 3.0, 0.0)])
    (directory / "gauge_livesum_1.db").write_bytes(gauge)
    (directory / "gauge_sum_1.db").write_bytes(render_shard([(key("jobs_all", "jobs_all"), 2, 0)]))
    collector = open_collector(directory)
    assert jobs(collector) == {"jobs_now": 3, "jobs_all": 2}
    claim(directory, 1, "gauge_livesum_1.db", "gauge_sum_1.db")
    assert jobs(collector) == {"jobs_all": 2}
    assert collector.fold()
    assert jobs(collector) == {"jobs_all": 2}


def test_a_removed_shard_keeps_its_values_and_is_folded_when_its_process_is_dead(
    directory: Path,
) -> None:
    write_counter(directory / f"counter_{NOBODY}.db", 3)
    write_counter(directory / f"counter_{os.getpid()}.db", 4)
    write_counter(directory / "counter_1.db", 1)
    collector = open_collector(directory)
    expected = {'jobs_total{reason="0"}': 8.0}
    assert jobs(collector) == expected
    for pid in (NOBODY, os.getpid()):
        (directory / f"counter_{pid}.db").unlink()
    assert jobs(collector) == expected
    claim(directory, 1, "counter_1.db")
    assert collector.fold()
    assert jobs(collector) == expected
    base = read_base(directory / RETIRED)
    assert list(base.sections["counter", "", 0].values()) == [(4.0, 0.0)]


# -- Folding -----------------------------------------------------------------------------------


def test_a_folded_shard_counts_with_its_last_good_value(directory: Path) -> None:
    path = directory / "counter_1.db"
    write_counter(path, 5)
    collector = open_collector(directory)
    assert jobs(collector) == {'jobs_total{reason="0"}': 5}
    write_counter(path, 2)
    claim(directory, 1, "counter_1.db")
    assert collector.fold()
    assert jobs(collector) == {'jobs_total{reason="0"}': 5}
    kept = [p.name for p in (directory / RETIRED / "bad").iterdir()]
    assert kept == ["1.claim-1.fell.counter_1.db"]


def test_a_full_disk_keeps_the_claims_readable(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_counter(directory / "counter_1.db", 5)
    claim(directory, 1, "counter_1.db")
    collector = open_collector(directory)

    def refuse(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("telemetry.fold.os.write", refuse)
        assert not collector.fold()
    assert jobs(collector) == {'jobs_total{reason="0"}': 5}
    assert collector.fold()
    assert jobs(collector) == {'jobs_total{reason="0"}': 5}


def test_nothing_is_folded_past_a_shard_that_cannot_be_opened_now(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_counter(directory / "counter_1.db", 5)
    claim(directory, 1, "counter_1.db")
    collector = open_collector(directory)

    def starve(path: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files", path)

    with monkeypatch.context() as starved:
        starved.setattr("telemetry.readings.open_found", starve)
        assert not collector.fold()
        assert reasons(collector) == {"io": 1}
    assert collector.fold()
    assert jobs(collector) == {'jobs_total{reason="0"}': 5}


def test_another_collector_takes_over_what_was_folded(directory: Path) -> None:
    write_counter(directory / "counter_1.db", 5)
    claim(directory, 3, "counter_1.db")
    collector = open_collector(directory)
    assert collector.fold()
    with pytest.raises(RetiredHeldError):
        open_collector(directory)
    collector.close()
    again = open_collector(directory)
    assert jobs(again) == {'jobs_total{reason="0"}': 5}
    assert again.describe()["base_claim"] == 3


def test_what_is_folded_before_the_lock_is_had_is_taken_over(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The former metricsd ends with a fold, while the next one already waits for the lock.
    write_counter(directory / "counter_1.db", 5)
    claim(directory, 3, "counter_1.db")
    former = open_collector(directory)

    def lock_at_last(path: Path) -> int | None:
        if former._retired._lock is not None:
            assert former.fold()
            former.close()
        return lock_retired(path)

    monkeypatch.setattr(retired_room, "lock_retired", lock_at_last)
    collector = open_collector(directory)
    assert jobs(collector) == {'jobs_total{reason="0"}': 5}
    assert collector.describe()["base_claim"] == 3
    collector.close()


def test_a_shard_that_is_claimed_between_the_two_listings_is_in_one_of_them(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that nobody has read yet, so that nobody would miss it.
    write_counter(directory / "counter_1.db", 5)
    collector = open_collector(directory)
    listings: list[str] = []

    def claim_after_the_first(listing: Callable[..., Any], name: str) -> Callable[..., Any]:
        def list_and_claim(*arguments: Any) -> Any:
            found = listing(*arguments)
            listings.append(name)
            if len(listings) == 1:
                claim(directory, 3, "counter_1.db")
            return found

        return list_and_claim

    flat = claim_after_the_first(list_directory, "flat")
    claims = claim_after_the_first(collector._retired.list_claims, "claims")
    monkeypatch.setattr(collector_room, "list_directory", flat)
    monkeypatch.setattr(collector._retired, "list_claims", claims)
    assert jobs(collector) == {'jobs_total{reason="0"}': 5}
    assert set(listings) == {"flat", "claims"}
    collector.close()


def test_an_unreadable_base_is_set_aside(directory: Path) -> None:
    (directory / RETIRED).mkdir()
    (directory / RETIRED / "base").write_bytes(b"garbage")
    write_counter(directory / "counter_1.db", 5)
    assert jobs(open_collector(directory)) == {'jobs_total{reason="0"}': 5}
    assert (directory / RETIRED / "bad" / "1.base").read_bytes() == b"garbage"


def test_nobody_folds_what_another_folds(directory: Path) -> None:
    descriptor = lock_retired(directory)
    assert descriptor is not None
    with pytest.raises(RetiredHeldError):
        open_collector(directory)
    os.close(descriptor)


def test_shards_without_a_descriptor_of_their_own_are_read_as_well(directory: Path) -> None:
    for pid in range(1, 6):
        write_counter(directory / f"counter_{pid}.db", pid)
    collector = open_collector(directory, descriptor_limit=2)
    assert jobs(collector) == {'jobs_total{reason="0"}': 15}
    write_counter(directory / "counter_5.db", 6, 1)
    assert jobs(collector) == {'jobs_total{reason="0"}': 16, 'jobs_total{reason="1"}': 1}
    claim(directory, 1, "counter_5.db", "counter_1.db")
    assert jobs(collector) == {'jobs_total{reason="0"}': 16, 'jobs_total{reason="1"}': 1}
    assert collector.fold()
    assert jobs(collector) == {'jobs_total{reason="0"}': 16, 'jobs_total{reason="1"}': 1}


# -- Flights -------------------------------------------------------------------------------------


class CountedLock:
    """A lock that tells how many threads have come to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.arrived = 0

    def __enter__(self) -> None:
        self.arrived += 1
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


def test_callers_share_a_run_that_began_after_them_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = 0
    first_may_end = threading.Event()

    def run() -> int:
        nonlocal runs
        runs += 1
        number = runs
        if number == 1:
            assert first_may_end.wait(10)
        return number

    flight = SingleFlight(run)
    lock = CountedLock()
    monkeypatch.setattr(flight, "_turn", lock)
    results: dict[str, int] = {}

    def call(name: str) -> None:
        results[name] = flight.call()

    threads = [threading.Thread(target=call, args=(name,)) for name in ("early", "late", "later")]
    threads[0].start()
    wait_for(lambda: runs == 1)
    for thread in threads[1:]:
        thread.start()
    wait_for(lambda: lock.arrived == 3)
    first_may_end.set()
    for thread in threads:
        thread.join(10)
    assert results == {"early": 1, "late": 2, "later": 2}
    assert flight.call() == 3


def test_a_run_that_fails_fails_only_for_its_own_caller() -> None:
    runs = 0

    def run() -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("broken")
        return runs

    flight = SingleFlight(run)
    with pytest.raises(ValueError, match="broken"):
        flight.call()
    assert flight.call() == 2


@pytest.mark.parametrize("died", [0, 1, 2], ids=["all live", "a claim", "a base, too"])
def test_what_could_not_be_added_up_for_want_of_numpy_is_all_there_later(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    died: int,
) -> None:
    for number in range(3):
        write_counter(directory / f"counter_{NOBODY - number}.db", 10.0**number)
    if died > 1:
        claim(directory, 1, f"counter_{NOBODY}.db")
        with closing(open_collector(directory)) as former:
            assert former.fold()
    if died > 0:
        claim(directory, died, f"counter_{NOBODY - 1}.db")
    monkeypatch.setattr(collector_room, "_IMPORT_AGAIN_SECONDS", 0.0)
    monkeypatch.setitem(sys.modules, "telemetry.sums", None)
    collector = open_collector(directory)
    for _ in range(3):
        assert jobs(collector) == {}
        assert reasons(collector) == {"io": 3 - max(0, died - 1)}
        assert not collector.fold()
    assert caplog.text.count("no totals are on the page: cannot import numpy") == 1
    monkeypatch.undo()
    for _ in range(2):
        assert sum(jobs(collector).values()) == 111
        assert reasons(collector) == {}
        assert collector.fold() == (died > 0)
        died = 0


def test_one_merge_is_encoded_once_for_each_format(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    exposition = Exposition()

    def render(chosen: Format, *_: Iterable[object]) -> Page:
        encoded.append(chosen.content_type)
        return Page(chosen.content_type, b"")

    monkeypatch.setattr(exposition, "render", render)
    merge = Merge(NoSums().add_up(), Statement((), (), ()))
    for accept in ("text/plain", "application/openmetrics-text", "text/html"):
        merge.render(exposition, accept)
    assert [text.partition(";")[0] for text in encoded] == [
        "text/plain",
        "application/openmetrics-text",
    ]


def test_a_shard_with_the_inode_of_a_removed_one_is_another(directory: Path) -> None:
    # Without descriptors nothing keeps an inode from being given to another file.
    collector = open_collector(directory, descriptor_limit=0)
    path = directory / f"gauge_livemax_{os.getpid()}.db"
    path.write_bytes(render_shard([(key("depth", "depth"), 100.0, 0.0)]))
    write_counter(directory / "counter_7.db", 5.0)
    assert scrape(collector)["depth"] == 100
    assert scrape(collector)['jobs_total{reason="0"}'] == 5
    for old, new, value in (
        (path, directory / "counter_8.db", 3.0),
        (directory / "counter_7.db", directory / "counter_9.db", 2.0),
    ):
        old.rename(new)  # whose inode is the old one's for sure
        with new.open("r+b") as file:
            file.truncate(0)
        write_counter(new, value)
    page = scrape(collector)
    assert "depth" not in page
    assert page['jobs_total{reason="0"}'] == 10  # what was removed stays counted
    collector.fold()
    assert scrape(collector)['jobs_total{reason="0"}'] == 10


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None,
    reason="needs root and unshare (util-linux)",
)
def test_another_file_system_in_the_same_place_has_shards_of_its_own(directory: Path) -> None:
    # Each tmpfs numbers its inodes anew, so a number alone says nothing.
    program = f"""
import subprocess
from pathlib import Path
from telemetry.collector import open_collector
from telemetry.shards import render_shard

directory = Path({str(directory)!r})

def fill(value):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    shard = render_shard([({key("jobs_total")!r}, value, 0.0)])
    path = directory / "counter_{NOBODY}.db"
    path.write_bytes(shard)
    return path.stat().st_ino

def read():
    page = collector.render("").body.decode().splitlines()
    print(*(line for line in page if line.startswith("jobs_total")))

collector = open_collector(directory)
first = fill(7.0)
read()
subprocess.run(["umount", "-l", directory], check=True)
assert fill(3.0) == first
read()
collector.fold()
read()
"""
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "denied" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("may not mount a tmpfs here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["jobs_total 7.0", "jobs_total 10.0", "jobs_total 10.0"]


def test_a_shard_that_cannot_be_opened_now_fails_no_scrape(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = open_collector(directory, descriptor_limit=0)
    write_counter(directory / f"counter_{NOBODY}.db", 7.0)
    (directory / f"counter_{os.getpid()}.db").touch()  # not written yet
    assert scrape(collector)['jobs_total{reason="0"}'] == 7
    write_counter(directory / f"counter_{NOBODY}.db", 8.0)
    claim(directory, 1, f"counter_{NOBODY}.db")
    real = os.open

    def starve(path: Path, *more: int, **rest: int) -> int:
        if str(path).endswith(".db"):
            raise OSError(errno.EMFILE, "Too many open files", path)
        return real(path, *more, **rest)

    with monkeypatch.context() as short:
        short.setattr(os, "open", starve)
        assert scrape(collector)['jobs_total{reason="0"}'] == 7
        assert not collector.fold()  # or what was counted last would be lost
    assert scrape(collector)['jobs_total{reason="0"}'] == 8
    assert collector.fold()
    assert scrape(collector)['jobs_total{reason="0"}'] == 8


@pytest.mark.parametrize("harm", ["cut", "overwritten", "removed"])
def test_a_base_that_somebody_harmed_is_written_anew(directory: Path, harm: str) -> None:
    write_counter(directory / f"counter_{NOBODY}.db", 7.0)
    claim(directory, 1, f"counter_{NOBODY}.db")
    collector = open_collector(directory)
    assert collector.fold()
    base = directory / RETIRED / "base"
    match harm:
        case "cut":
            os.truncate(base, base.stat().st_size // 2)
        case "overwritten":
            base.write_bytes(b"garbage")
        case _:
            base.unlink()
    assert collector.fold()
    assert not collector.fold()
    collector.close()
    assert jobs(open_collector(directory)) == {'jobs_total{reason="0"}': 7}


def test_a_bad_base_that_cannot_be_set_aside_keeps_no_page_back(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_counter(directory / f"counter_{os.getpid()}.db", 7.0)
    (directory / RETIRED).mkdir()
    (directory / RETIRED / "base").write_bytes(b"garbage")

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("telemetry.retired.set_aside_base", refuse)
    assert jobs(open_collector(directory)) == {'jobs_total{reason="0"}': 7}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much each `pread` has asked for."""
    asked: list[int] = []
    real = os.pread

    def pread(descriptor: int, count: int, offset: int) -> bytes:
        asked.append(count)
        return real(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    return asked


def write_used(path: Path, used: int) -> None:
    """Let a shard say that it uses so much, and have the room for it."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(used.to_bytes(4, sys.byteorder))
        file.truncate(used)


def test_of_a_shard_that_claims_more_than_it_holds_only_the_beginning_is_read(
    directory: Path, reads: list[int]
) -> None:
    write_used(directory / f"counter_{os.getpid()}.db", SHARD_LIMIT_BYTES)
    collector = open_collector(directory)
    assert scrape(collector)['ptsup_shards_unreadable{reason="length"}'] == 1
    assert sum(reads) < 1 << 16


def test_a_shard_beyond_the_limit_costs_the_others_nothing(
    directory: Path, reads: list[int]
) -> None:
    write_used(directory / f"counter_{os.getpid()}.db", SHARD_LIMIT_BYTES + 8)
    write_counter(directory / "counter_1.db", 5)
    collector = open_collector(directory)
    assert reasons(collector) == {"size": 1}
    assert jobs(collector) == {'jobs_total{reason="0"}': 5}
    assert sum(reads) < 1 << 17


def test_a_shard_that_grows_beyond_the_limit_goes_on_with_the_series_it_had(
    directory: Path,
) -> None:
    path = directory / f"counter_{os.getpid()}.db"
    write_counter(path, 5)
    collector = open_collector(directory)
    assert jobs(collector) == {'jobs_total{reason="0"}': 5}
    write_counter(path, 6, 1)
    write_used(path, SHARD_LIMIT_BYTES + 8)
    assert reasons(collector) == {"size": 1}
    assert jobs(collector) == {'jobs_total{reason="0"}': 6}


def test_garbage_behind_good_entries_is_not_read_again_and_again(
    directory: Path, reads: list[int]
) -> None:
    path = directory / f"counter_{os.getpid()}.db"
    write_counter(path, *range(1000))
    write_used(path, 4 << 20)
    collector = open_collector(directory)
    assert reasons(collector) == {"length": 1}
    reads.clear()
    assert len(jobs(collector)) == 1000
    assert reasons(collector) == {"length": 1}
    assert 0 < sum(reads) < 1 << 16


def test_a_directory_left_alone_is_not_listed_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.shards._SETTLED_SECONDS", 0.05)
    listed: list[Path] = []

    def list_and_note(path: Path, former: Listing) -> Listing:
        listed.append(path)
        return list_directory(path, former)

    monkeypatch.setattr("telemetry.collector.list_directory", list_and_note)
    write_counter(directory / "counter_1.db", 5)
    collector = open_collector(directory)

    def total_unlisted() -> dict[str, float]:
        """Scrape until that is done without a listing."""

        def is_left_alone() -> bool:
            listed.clear()
            found.update(jobs(collector))
            return not listed

        found: dict[str, float] = {}
        wait_for(is_left_alone)
        return found

    assert total_unlisted() == {'jobs_total{reason="0"}': 5}
    write_counter(directory / "counter_2.db", 7)
    assert jobs(collector) == total_unlisted() == {'jobs_total{reason="0"}': 12}
    (directory / "counter_2.db").replace(directory / "counter_3.db")
    (directory / f"counter_{NOBODY}.db").touch()
    assert reasons(collector) == {"empty": 1}
    assert total_unlisted() == {'jobs_total{reason="0"}': 12}
    shutil.rmtree(directory)
    directory.mkdir()
    write_counter(directory / "counter_4.db", 1)
    assert jobs(collector) == {'jobs_total{reason="0"}': 13}


def test_where_no_listing_comes_to_an_end_nothing_is_folded_twice(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = open_collector(directory)
    for number in (1, 2):
        write_counter(directory / f"counter_{number}.db", 7.0)
        claim(directory, number, f"counter_{number}.db")
        if number == 1:
            assert collector.fold()

    def vanish(_self: Readings, _listed: object) -> None:
        raise FileNotFoundError

    with monkeypatch.context() as busy:
        busy.setattr(Readings, "sync", vanish)
        assert not collector.fold()
        assert jobs(collector) == {'jobs_total{reason="0"}': 7}
    assert collector.fold()
    assert jobs(collector) == {'jobs_total{reason="0"}': 14}


def test_another_name_of_a_living_shard_is_claimed_and_not_counted_twice(directory: Path) -> None:
    path = directory / f"counter_{os.getpid()}.db"
    write_counter(path, 7.0)
    twin = directory / f"counter_{NOBODY}.db"
    twin.hardlink_to(path)
    collector = open_collector(directory)
    assert jobs(collector) == {'jobs_total{reason="0"}': 7}
    claim(directory, 1, twin.name)
    assert jobs(collector) == {'jobs_total{reason="0"}': 7}
    assert collector.fold()
    assert not (directory / RETIRED / "claim-1").exists()
    write_counter(path, 8.0)
    assert jobs(collector) == {'jobs_total{reason="0"}': 8}
    claim(directory, 2, path.name)
    assert collector.fold()
    assert jobs(collector) == {'jobs_total{reason="0"}': 8}
