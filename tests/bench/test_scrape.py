"""What a scrape costs: stock's MultiProcessCollector, metricsd and the floor, in turn, over HTTP.

The tables are what docs/benchmarks.md shows. Nothing here asserts a time; the pages of all who
add up are equal before anything is measured.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest

from bench.peers import (
    SCALE,
    Peer,
    check_pages,
    divide,
    find_percentile,
    interleave,
    list_series,
    print_section,
    print_table,
    program,
    render_ms,
    render_ratio,
    render_spread,
    running,
    scale,
    serving_all,
    serving_ours,
    serving_stock,
    settle,
)
from bench.population import Population
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.peers import Field, Times

pytestmark = pytest.mark.timeout(900)

# -- All sizes ------------------------------------------------------------------------------------

LIVING: Final = [scale(n, 5) for n in (10, 100, 1_000, 5_000)]
SERIES: Final = [20, 100, 500]
# Of the dead, and series each; beside them these live.
DEAD: Final = [
    (scale(100, 10), 100),
    (scale(5_000, 20), 100),
    (scale(50_000, 40), 100),
    (scale(5_000, 20), 500),
]
BESIDE_THE_DEAD: Final = scale(50, 5)
# Enough for a 99th percentile of the quick ones.
SCRAPES_BESIDE_THE_DEAD: Final = scale(400, 20)
# A cell of the first table takes about this long; the slow ones have fewer turns, never none.
SECONDS_A_CELL: Final = 12.0 / min(SCALE, 8)
USUAL: Final = (scale(1_000, 20), 100)  # sessions, series
SCRAPERS: Final = 8
ROUNDS_OF_SCRAPERS: Final = scale(40, 3)
BIRTHS_PER_SECOND: Final = 100
CHURNING: Final = scale(200, 10)
CHURN_SECONDS: Final = 24.0 / min(SCALE, 8)
COLD: Final = (scale(5_000, 20), 100)
COLD_STARTS: Final = 5
EMPTY_STARTS: Final = scale(11, 3)
STRACED_SCRAPES: Final = 20
STORM_PHASES: Final = scale(8, 2)
STORM_SCRAPES: Final = scale(100, 10)  # in each phase
CLAIMS_PER_SECOND: Final = 200

# What stock takes for a sample, roughly: only to choose how many turns it gets.
_STOCK_SECONDS: Final = 6e-6


def count_turns(sessions: int, series: int) -> int:
    """Count the turns that stock gets: as many as its time allows, at least 3, at most 50."""
    cost = 2e-3 + _STOCK_SECONDS * sessions * (series + 7)
    return max(3, min(50, int(SECONDS_A_CELL / cost)))


# -- The living -----------------------------------------------------------------------------------


def test_living_sessions() -> None:
    print_section(
        "A scrape of living sessions",
        "Sessions x series (and seven gauges each), nobody dead, every value changed before each"
        " round. Milliseconds of one scrape: median (least … most); then ratios of medians. In"
        " brackets behind the size: the scrapes of stock and of the others.",
    )
    rows = [_measure_living(sessions, series) for series in SERIES for sessions in LIVING]
    head = ("sessions x series", "stock", "ptsup", "floor", "stock ÷ ptsup", "ptsup ÷ floor")
    print_table(head, rows)


def test_key_orders() -> None:
    sessions, series = USUAL
    print_section(
        "Every session with a key order of its own",
        "As above; the series of each session stand in its shard in another order.",
    )
    head = ("sessions x series", "stock", "ptsup", "floor", "stock ÷ ptsup", "ptsup ÷ floor")
    print_table(head, [_measure_living(sessions, series, orders_differ=True)])


def _measure_living(sessions: int, series: int, *, orders_differ: bool = False) -> list[str]:
    with Population(series, orders_differ=orders_differ) as population:
        population.add_living(sessions)
        with serving_all(population) as field:
            turns = count_turns(sessions, series)
            others = max(turns, scale(50, 5))
            times = interleave(field, {"stock": turns, "ptsup": others, "floor": others})
    return [
        f"{sessions:,} x {series} ({turns}, {others})",
        *(render_spread(times[name]) for name in ("stock", "ptsup", "floor")),
        divide(times["stock"], times["ptsup"]),
        divide(times["ptsup"], times["floor"]),
    ]


# -- The dead -------------------------------------------------------------------------------------


def test_dead_sessions() -> None:
    print_section(
        "A scrape beside the dead",
        f"{BESIDE_THE_DEAD} living sessions and those that died before: files for stock, one file"
        " for *stock, folded* (what one could do by hand), the base for ptsup. Milliseconds:"
        " median (least … most). In brackets behind the size: the scrapes of stock and the others.",
    )
    rows, tails, memories = [], [], []
    for dead, series in DEAD:
        with Population(series) as population:
            population.add_living(BESIDE_THE_DEAD)
            population.add_dead(dead)
            with serving_all(population) as field:
                turns = max(2, min(30, count_turns(dead, series)))
                times = _measure_dead(field, turns)
                check_pages(field, without="stock")  # it would take another minute
                memories.append(_measure_memory(field, f"{dead:,} x {series}"))
        label = f"{dead:,} x {series} ({turns}, {SCRAPES_BESIDE_THE_DEAD})"
        rows.append([label, *_render_dead(times)])
        tails.append([f"{dead:,} x {series}", *_render_tails(times)])
    names = ("stock", "stock, folded", "ptsup", "floor")
    print_table(("dead x series", *names, "stock ÷ ptsup", "folded ÷ ptsup"), rows)
    percentiles = ("ptsup p50", "ptsup p99", "floor p50", "floor p99")
    print_table(("dead x series", *percentiles, "p50 ÷ p50", "p99 ÷ p99"), tails)
    print_section(
        "Memory",
        "Of each server after those scrapes, in MB: anonymous (with what is in the page cache,"
        " libraries above all).",
    )
    print_table(("dead x series", *names), memories)


def _measure_dead(field: Field, turns: int) -> Times:
    many = SCRAPES_BESIDE_THE_DEAD
    return interleave(
        field, {"stock": turns, "stock, folded": many // 4, "ptsup": many, "floor": many}
    )


def _render_dead(times: Times) -> list[str]:
    return [
        *(render_spread(seconds) for seconds in times.values()),
        divide(times["stock"], times["ptsup"]),
        divide(times["stock, folded"], times["ptsup"]),
    ]


def _render_tails(times: Times) -> list[str]:
    cells, found = [], {}
    for name in ("ptsup", "floor"):
        for percent in (50, 99):
            found[name, percent] = find_percentile(times[name], percent)
            cells.append(render_ms(found[name, percent]))
    ratios = (found["ptsup", percent] / found["floor", percent] for percent in (50, 99))
    return [*cells, *map(render_ratio, ratios)]


def _measure_memory(field: Field, label: str) -> list[str]:
    cells = []
    for peer in field.peers.values():
        without_cache, whole = peer.resident()
        cells.append(f"{without_cache:.1f} ({whole:.1f})")
    return [label, *cells]


# -- Many scrapers --------------------------------------------------------------------------------


def test_concurrent_scrapers() -> None:
    sessions, series = USUAL
    print_section(
        f"{SCRAPERS} scrapers at once",
        f"{sessions:,} living sessions x {series}; {SCRAPERS} connections ask at the same moment,"
        " and one alone, in turn; every value changed before. Milliseconds each of them waits:"
        " median (least … most).",
    )
    rows = []
    with Population(series) as population:
        population.add_living(sessions)
        with serving_all(population) as field:
            alone: Times = {name: [] for name in field.peers}
            together: Times = {name: [] for name in field.peers}
            with contextlib.ExitStack() as stack:
                crowds = {
                    name: [stack.enter_context(_connecting(peer)) for _ in range(SCRAPERS)]
                    for name, peer in field.peers.items()
                }
                for number in range(ROUNDS_OF_SCRAPERS):
                    for name, peer in field.peers.items():
                        if name == "stock" and number % 8:
                            continue
                        population.bump()
                        alone[name].append(peer.scrape()[0])
                        population.bump()
                        together[name] += _scrape_at_once(crowds[name])
            check_pages(field)
    for name in alone:
        ratio = divide(together[name], alone[name])
        rows.append([name, render_spread(alone[name]), render_spread(together[name]), ratio])
    print_table(("", "one", f"{SCRAPERS} at once", "ratio"), rows)


@contextlib.contextmanager
def _connecting(peer: Peer) -> Iterator[Peer]:
    other = Peer(peer.name, peer.process, peer.port)
    try:
        other.scrape()
        yield other
    finally:
        other.connection.close()


def _scrape_at_once(crowd: list[Peer]) -> list[float]:
    barrier, seconds = threading.Barrier(len(crowd)), []

    def run(peer: Peer) -> None:
        barrier.wait()
        seconds.append(peer.scrape()[0])

    threads = [threading.Thread(target=run, args=(peer,)) for peer in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seconds) == len(crowd)
    return seconds


# -- Churn ----------------------------------------------------------------------------------------


def test_churn() -> None:
    print_section(
        "Churn",
        f"{BIRTHS_PER_SECOND} sessions x 100 begin each second and as many die, {CHURNING} live"
        " at a time. Theirs are claimed and folded for ptsup; for stock they are marked dead, and"
        " their counters stay. Both are scraped in turn, in the same seconds.",
    )
    times: Times = {"stock": [], "ptsup": []}
    failed = dict.fromkeys(times, 0)
    with Population(100) as population, contextlib.ExitStack() as stack:
        (population.ours / ".retired").mkdir(mode=0o700)
        stock = stack.enter_context(serving_stock(population.stock))
        ours = stack.enter_context(serving_ours(population.ours))
        command = program(
            "churn", "births", BIRTHS_PER_SECOND, 100, CHURNING, population.ours, population.stock
        )
        with running(command, **_PIPES) as churn:
            _wait_ready(churn)
            wait_for(lambda: len(list(population.ours.glob("counter_*"))) >= CHURNING)
            began = time.monotonic()
            while time.monotonic() - began < CHURN_SECONDS:
                for peer in (stock, *[ours] * 8):
                    seconds, status, _ = peer.ask()
                    if status == 200:
                        times[peer.name].append(seconds)
                    else:
                        failed[peer.name] += 1
                    time.sleep(0.02)
            born, per_second = _end_churn(churn)
        settle(ours, population.ours)
        assert list_series(ours.scrape()[1]) == list_series(stock.scrape()[1])
        left = len(list(population.stock.iterdir()))
    rows = [
        [
            name,
            render_spread(seconds),
            render_ms(find_percentile(seconds, 99)),
            f"{failed[name]} of {len(seconds) + failed[name]}",
        ]
        for name, seconds in times.items()
    ]
    print_table(("", "median (least … most), ms", "p99, ms", "failed scrapes"), rows)
    print(
        f"{born:,} sessions began, {per_second:.0f} a second; at the end stock has {left:,} files."
        f" Ratio of the medians: {divide(times['stock'], times['ptsup'])}."
    )


_PIPES: Final = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


def _wait_ready(churn: subprocess.Popen[bytes]) -> None:
    assert churn.stdout is not None
    assert churn.stdout.readline() == b"ready\n"


def _end_churn(churn: subprocess.Popen[bytes]) -> tuple[int, float]:
    """End it; how many began, and how many a second."""
    assert churn.stdin is not None
    assert churn.stdout is not None
    churn.stdin.close()
    count, seconds = churn.stdout.readline().split()
    return int(count), int(count) / float(seconds)


def test_storm_of_folds() -> None:
    print_section(
        "Scrapes during a storm of folds",
        f"50 living sessions x 100, scraped 50 times a second; {CLAIMS_PER_SECOND} dead sessions"
        " x 100 a second come to be folded, or none, in turn. Milliseconds.",
    )
    times: Times = {"quiet": [], "storm": []}
    with Population(100) as population, contextlib.ExitStack() as stack:
        population.add_living(50)
        population.add_dead(scale(1_000, 10))
        ours = stack.enter_context(serving_ours(population.ours))
        ours.scrape()
        command = program("churn", "claims", CLAIMS_PER_SECOND, 100, 0, population.ours)
        with running(command, **_PIPES) as churn:
            _wait_ready(churn)
            for _ in range(STORM_PHASES):
                churn.send_signal(signal.SIGSTOP)
                settle(ours, population.ours)
                times["quiet"] += _scrape_at_a_pace(population, ours)
                churn.send_signal(signal.SIGCONT)
                times["storm"] += _scrape_at_a_pace(population, ours)
            folded, _ = _end_churn(churn)
        settle(ours, population.ours)
        assert f'ptsup_shards{{state="live"}} {100.0}'.encode() in ours.scrape()[1]
    rows = [
        [name, render_spread(s), *(render_ms(find_percentile(s, p)) for p in (50, 99))]
        for name, s in times.items()
    ]
    print_table(("", "median (least … most)", "p50", "p99"), rows)
    print(f"{folded:,} dead sessions were folded meanwhile.")


def _scrape_at_a_pace(population: Population, peer: Peer) -> list[float]:
    seconds = []
    for _ in range(STORM_SCRAPES):
        population.bump()
        seconds.append(peer.scrape()[0])
        time.sleep(max(0.0, 0.02 - seconds[-1]))
    return seconds


# -- Cold starts ----------------------------------------------------------------------------------


def test_cold_start() -> None:
    sessions, series = COLD
    print_section(
        "Cold start",
        f"Started anew each time, in turn; {sessions:,} living sessions x {series}. *Nothing"
        " cached*: the first page of a fresh collector, without HTTP and imports. *First scrape*:"
        " over HTTP, once the server answers; metricsd has read everything by then. *Start to"
        " first page*: from the start of the process, of the same, and of an empty directory."
        " Milliseconds: median (least … most).",
    )
    found: dict[str, Times] = {}
    with Population(series) as population:
        population.add_living(sessions)
        for _ in range(COLD_STARTS):
            population.bump()
            for name in _COLLECTORS:
                _note(found, "nothing cached", name, _time_first_page(name, population))
            for name in _COLLECTORS:
                seconds = _time_start(name, population, ready_first=True)
                _note(found, "first scrape", name, seconds)
            for name in _COLLECTORS:
                seconds = _time_start(name, population, ready_first=False)
                _note(found, "start to first page", name, seconds)
    with Population(20) as population:
        for _ in range(EMPTY_STARTS):
            for name in _COLLECTORS:
                seconds = _time_start(name, population, ready_first=False)
                _note(found, "start to first page, empty directory", name, seconds)
    rows = [
        [what, *map(render_spread, times.values()), divide(times["stock"], times["ptsup"])]
        for what, times in found.items()
    ]
    print_table(("", *_COLLECTORS, "stock ÷ ptsup"), rows)


_COLLECTORS: Final = ("stock", "ptsup")


def _note(found: dict[str, Times], what: str, name: str, seconds: float) -> None:
    found.setdefault(what, {}).setdefault(name, []).append(seconds)


def _time_first_page(name: str, population: Population) -> float:
    directory = population.stock if name == "stock" else population.ours
    with running(program("first_page", name, directory), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        return float(process.stdout.readline())


def _time_start(name: str, population: Population, *, ready_first: bool) -> float:
    began = time.perf_counter()
    serving = serving_stock(population.stock) if name == "stock" else serving_ours(population.ours)
    with serving as peer:
        if ready_first:
            if name != "stock":  # which has said so
                assert peer.ask("/healthz")[1] == 200
            return peer.scrape()[0]
        peer.scrape()
        return time.perf_counter() - began


# -- System calls ---------------------------------------------------------------------------------

_CALL: Final = re.compile(r"(\w+)\((?:AT_FDCWD|\d+)<([^>]*)>.*\) = (-?\d+)(?:<([^>]*)>)?")
_READS: Final = ("read", "pread64", "preadv", "preadv2")
_TRACED: Final = ("openat", "getdents64", *_READS)


def test_system_calls() -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace: apt-get install --no-install-recommends strace")
    print_section(
        "What a scrape asks of the system",
        f"Opens, reads and bytes read from files by metricsd, a scrape, {BESIDE_THE_DEAD} living"
        f" sessions x 100 beside the dead; the medians of {STRACED_SCRAPES}"
        " scrapes that strace counted.",
    )
    rows = [_trace(dead) for dead in (DEAD[0][0], DEAD[2][0])]
    print_table(("dead x 100", "opens", "reads", "directory reads", "bytes read"), rows)
    assert rows[0][1:] == rows[1][1:]


def _trace(dead: int) -> list[str]:
    """Trace some scrapes; the median of each count."""
    with Population(100) as population:
        population.add_living(BESIDE_THE_DEAD)
        population.add_dead(dead)
        path = population.root / "trace"
        calls = ",".join(_TRACED)
        before = ("strace", "-D", "-f", "-qq", "-y", "-s", "0", "-e", f"trace={calls}")
        with serving_ours(population.ours, before=(*before, "-o", str(path))) as peer:
            start = 0

            def count_next() -> tuple[int, int, int, int]:
                nonlocal start
                population.bump()
                peer.scrape()
                end = _wait_quiet(path)
                with path.open("rb") as file:
                    file.seek(start)
                    text = file.read(end - start).decode()
                start = end
                return _count_calls(text)

            count_next()
            first = count_next()
            # A directory that is left alone is not listed again.
            wait_for(lambda: count_next()[2] < first[2], timeout_seconds=30)
            counts = [count_next() for _ in range(STRACED_SCRAPES)]
    return [
        f"{dead:,}",
        *(f"{statistics.median_low(column):,}" for column in zip(*counts, strict=True)),
    ]


def _count_calls(text: str) -> tuple[int, int, int, int]:
    """Count opens, reads and listings, and the bytes read."""
    opens = reads = listings = bytes_read = 0
    for name, result in _list_calls(text):
        opens += name == "openat"
        listings += name == "getdents64"
        if name in _READS:
            reads += 1
            bytes_read += result
    return opens, reads, listings, bytes_read


def _wait_quiet(path: Path, seconds: float = 0.2) -> int:
    """Wait until no call has been written for a while; how long the trace is now."""
    changed, size = time.monotonic(), -1

    def is_quiet() -> bool:
        nonlocal changed, size
        now = path.stat().st_size
        if now != size:
            changed, size = time.monotonic(), now
        return time.monotonic() - changed > seconds

    wait_for(is_quiet, timeout_seconds=60, what="strace")
    return size


def _list_calls(text: str) -> Iterator[tuple[str, int]]:
    """List the calls on files, each with its result; sockets and pipes have no path."""
    unfinished: dict[str, str] = {}
    for line in text.splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            unfinished[thread] = call.removesuffix("<unfinished ...>")
            continue
        if call.startswith("<... "):
            call = unfinished.pop(thread) + call.partition(" resumed>")[2]
        match = _CALL.match(call)
        if match is not None and match[2].startswith(os.sep):
            yield match[1], int(match[3])


def test_medians_are_medians() -> None:
    """Hold the little arithmetic there is."""
    assert find_percentile([3, 1, 2], 50) == 2
    assert find_percentile(range(1, 401), 99) == 397
    assert divide([2.0, 4.0, 6.0], [2.0]) == "2.00"
    assert statistics.median([1, 2]) == 1.5
