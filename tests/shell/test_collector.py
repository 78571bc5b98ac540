"""The scrape over real shards, good, bad and vanishing, and the flight that scrapes share."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import CollectorRegistry

from telemetry.collector import Merge, Page, SingleFlight, StockCollector, open_collector
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from prometheus_client.metrics_core import Metric

WRITER = Path(__file__).parents[1] / "children" / "metricsd_writer.py"


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


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "prom_multiproc"


def test_the_page_is_what_the_library_makes_of_the_shards(directory: Path) -> None:
    write(directory, 3, 2)
    write(directory, 4, 7)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    stock = generate_latest(registry)
    page = open_collector(directory).render("")
    assert sorted(page.body.splitlines()) == sorted(stock.splitlines())
    assert b'shop_sales_total{item="tea"} 7.0' in page.body
    assert b"shop_queue 7.0" in page.body


def test_the_accept_header_chooses_the_format(directory: Path) -> None:
    write(directory, 3)
    collector = open_collector(directory)
    openmetrics = collector.render("application/openmetrics-text;version=1.0.0,*/*;q=0.1")
    assert openmetrics.content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.body.endswith(b"# EOF\n")
    plain = collector.render("text/html")
    assert plain.content_type == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    "accept", ["text/plain;version=abc", "application/openmetrics-text;version=1.x", ";;==,", "é"]
)
def test_a_senseless_accept_header_gets_plain_text(directory: Path, accept: str) -> None:
    assert open_collector(directory).render(accept).content_type.startswith("text/plain")


def test_a_missing_directory_is_an_empty_page_until_it_comes_back(directory: Path) -> None:
    collector = open_collector(directory)
    assert collector.render("").body == b""
    write(directory, 3)
    assert b'shop_sales_total{item="tea"} 3.0' in collector.render("").body


def test_a_garbage_shard_is_left_out_and_named_once(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(directory, 3)
    (directory / "counter_4711.db").write_bytes(b"\xff" * 3)
    (directory / "gauge_max_4711.db").write_bytes(b"\x40\0\0\0\0\0\0\0\x05\0\0\0hello" + b"\0" * 64)
    collector = open_collector(directory)
    for _ in range(3):
        assert b'shop_sales_total{item="tea"} 3.0' in collector.render("").body
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"cannot read the shard {directory / name}"
        for name in ("counter_4711.db", "gauge_max_4711.db")
    ]


def test_a_shard_not_yet_written_is_no_defect(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(directory, 3)
    (directory / "counter_4711.db").touch()
    (directory / "counter_4712.db").write_bytes(b"\0" * 65536)
    assert b'shop_sales_total{item="tea"} 3.0' in open_collector(directory).render("").body
    assert caplog.records == []


def test_a_shard_that_vanishes_while_it_is_read_costs_the_others_nothing(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(directory, 3)
    vanishing = directory / f"counter_{write(directory, 4)}.db"

    def merge(paths: Sequence[Path]) -> Iterable[Metric]:
        vanishing.unlink(missing_ok=True)
        return stock_merge(paths)

    collector = StockCollector(directory, merge=merge, choose_encoder=choose_encoder)
    assert b'shop_sales_total{item="tea"} 3.0' in collector.render("").body
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_shard_that_vanishes_while_another_is_sought_out_is_no_defect(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(directory, 3)
    vanishing = directory / f"counter_{write(directory, 4)}.db"
    (directory / "counter_2147483647.db").write_bytes(b"\xff" * 3)

    def merge(paths: Sequence[Path]) -> Iterable[Metric]:
        if paths == [vanishing]:
            vanishing.unlink(missing_ok=True)
        return stock_merge(paths)

    collector = StockCollector(directory, merge=merge, choose_encoder=choose_encoder)
    assert b'shop_sales_total{item="tea"} 3.0' in collector.render("").body
    assert ["counter_2147483647.db" in record.getMessage() for record in caplog.records] == [True]


def stock_merge(paths: Sequence[Path]) -> Iterable[Metric]:
    merged: Iterable[Metric] = MultiProcessCollector.merge(paths)  # type: ignore[no-untyped-call]
    return merged


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


def test_one_merge_is_encoded_once_for_each_format() -> None:
    encoded: list[str] = []
    merge = Merge([])
    for content_type in ("text/a", "text/b", "text/a"):

        def encode(_: Merge, content_type: str = content_type) -> bytes:
            encoded.append(content_type)
            return content_type.encode()

        assert merge.render(encode, content_type) == Page(content_type, content_type.encode())
    assert encoded == ["text/a", "text/b"]
