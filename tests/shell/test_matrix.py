"""One bad thing among good shards, over HTTP: 200, the good unchanged, the bad one counted."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collecting import collecting
from fuzz_shards import build_key
from metricsd_process import CHILDREN, METRICSD, Metricsd, options_for, running
from telemetry.shards import HEADER_BYTES, Defect, parse_slots, render_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from telemetry.collector import ShardCollector

UNREADABLE = re.compile(r'^ptsup_shards_unreadable\{reason="([a-z]+)"\} (\S+)$')
DISTURBED_SECONDS = 2.0
# Nobody has so high a pid; this process has one, and lives.
DEAD = 2**31 - 1
TOKENS = itertools.count()
LIVING = os.getpid()


class Page:
    """The lines of a page: those of the good shards, the bad ones' samples, and what is counted."""

    def __init__(self, body: str, token: str = "bad_") -> None:
        lines = body.split("\n")
        self.good = [line for line in lines if re.match(r"(# (HELP|TYPE) )?good_", line)]
        mine = (line for line in lines if line.startswith(token))
        self.bad = sorted(line.replace(token, "bad_", 1) for line in mine)
        found = filter(None, map(UNREADABLE.match, lines))
        self.unreadable = Counter({m[1]: int(float(m[2])) for m in found if float(m[2])})


@dataclass
class Exporter:
    """A metricsd, its directory, and what the good shards in it show.

    What was removed may have left totals on the page, and reasons: each test calls its families
    by a token of its own, as long as `bad_`, and counts from what it found.
    """

    metricsd: Metricsd
    directory: Path
    good: list[str] = field(default_factory=list)
    token: str = "bad_"
    before: Counter[str] = field(default_factory=Counter)

    def scrape(self) -> Page:
        page = Page(self.metricsd.scrape(), self.token)
        health = self.metricsd.health()
        assert Counter(health["shards_unreadable"]) == page.unreadable
        assert health["pid"] == self.metricsd.process.pid
        page.unreadable -= self.before
        return page

    def check(self, reason: Defect | None, *bad: str) -> None:
        """Check what a page shows: the good, what is good of the bad, and the reason."""
        page = self.scrape()
        assert page.good == self.good
        assert page.bad == sorted(bad)
        assert page.unreadable == ({reason: 1} if reason else {})

    def fill(self, path: Path, data: bytes) -> None:
        """Put these bytes into a file, in place."""
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(data.replace(b"bad_", self.token.encode()))
            file.truncate()

    def write(self, data: bytes, pid: int = DEAD, prefix: str = "counter") -> Path:
        path = self.directory / f"{prefix}_{pid}.db"
        self.fill(path, data)
        return path


@contextmanager
def exporting(
    path: Path, source: Path, command: Sequence[str | Path] = METRICSD, *, copies: bool = True
) -> Iterator[Exporter]:
    """Run a metricsd on a fresh directory with the good shards in it."""
    directory = path / "prom_multiproc"
    with running([*command, *options_for(directory)], path / "log") as metricsd:
        if copies:
            for shard in source.iterdir():
                shutil.copy(shard, directory)
        exporter = Exporter(metricsd, directory)
        exporter.good = exporter.scrape().good
        yield exporter


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have the real library write one shard of every kind, in a process that lives on."""
    directory = tmp_path_factory.mktemp("source")
    with subprocess.Popen(
        [sys.executable, CHILDREN / "good_writer.py", directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield directory
        finally:
            process.kill()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Iterator[Exporter]:
    """Run one metricsd through all the bad files, one after another."""
    with exporting(tmp_path_factory.mktemp("lasting"), source) as exporter:
        yield exporter


@pytest.fixture
def exporter(lasting: Exporter) -> Iterator[Exporter]:
    """Give that metricsd to one more test, and afterwards remove what the test made."""
    lasting.token = f"b{next(TOKENS):02x}_"
    lasting.before = Counter()
    lasting.before = lasting.scrape().unreadable
    files = set(lasting.directory.iterdir())
    lasting.check(None)
    yield lasting
    for path in set(lasting.directory.iterdir()) - files:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    assert lasting.scrape().good == lasting.good


@pytest.fixture
def own(tmp_path: Path, source: Path) -> Iterator[Exporter]:
    """Run a metricsd for one test alone."""
    with exporting(tmp_path, source) as exporter:
        yield exporter


def test_the_good_shards_are_on_the_page(lasting: Exporter) -> None:
    assert {
        r'good_checks_total{ccy="Ü \"quoted\" \\ and\nbroken",reason="runtime:halt"} 3.0',
        'good_checks_total{ccy="EUR",reason="runtime:pause"} 0.5',
        'good_livemax{ccy="EUR"} -2.25',
        'good_mostrecent{ccy="EUR"} -2.25',
        'good_wait_bucket{check="a",le="5.0"} 1.0',
        'good_wait_count{check="a"} 1.0',
        "good_price_sum -4.0",
    } <= set(lasting.good)


# What a file may hold

REASONS = ("halt", "pause", "reject")


def counters(*values: float) -> bytes:
    """Render a shard of up to three counters."""
    return render_shard(
        (build_key("bad_jobs", "bad_jobs_total", {"reason": f"runtime:{reason}"}), value, 0.0)
        for reason, value in zip(REASONS, values, strict=False)
    )


def lines(*values: float | None) -> tuple[str, ...]:
    """Say what a page shows of such counters; None for one that it leaves out."""
    return tuple(
        f'bad_jobs_total{{reason="runtime:{reason}"}} {value}'
        for reason, value in zip(REASONS, values, strict=False)
        if value is not None
    )


SOUND = counters(1.0, 2.0, 3.0)
# Where the values of its three entries lie; an entry begins where the one before it ends.
PLACES = [at for _, at in parse_slots(SOUND, HEADER_BYTES, len(SOUND))[0]]
SECOND = PLACES[0] + 16
ROOM = bytes(512)
ALL = lines(1.0, 2.0, 3.0)


def put(place: int, data: bytes, shard: bytes = SOUND) -> bytes:
    return shard[:place] + data + shard[place + len(data) :]


def put_used(used: int, shard: bytes = SOUND) -> bytes:
    return put(0, struct.pack("=i", used), shard)


def put_length(length: int) -> bytes:
    return put(SECOND, struct.pack("=i", length)) + ROOM


def put_key(document: str | bytes) -> bytes:
    """Render the sound shard with another key in the middle."""
    raw = document.encode() if isinstance(document, str) else document
    first, _, third = parse_slots(SOUND, HEADER_BYTES, len(SOUND))[0]
    return render_shard([(first[0], 1.0, 0.0), (raw, 2.0, 0.0), (third[0], 3.0, 0.0)]) + ROOM


@dataclass(frozen=True)
class Case:
    """A bad file: what it holds, the reason that is counted, and what is on the page of it."""

    what: str
    data: bytes
    reason: Defect | None
    shows: tuple[str, ...] = ()


SHARDS = (
    Case("0 bytes", b"", Defect.EMPTY),
    Case("3 bytes", b"\x08\x01\x01", Defect.TRUNCATED),
    Case("3 zeros", bytes(3), Defect.EMPTY),
    Case("6 bytes", SOUND[:6], Defect.TRUNCATED),
    Case("6 zeros", bytes(6), Defect.EMPTY),
    Case("100 bytes", SOUND[:100], Defect.TRUNCATED, lines(1.0)),
    Case("100 of any bytes", b"\xa5" * 100, Defect.HEADER),
    Case("cut in a length", SOUND[: SECOND + 2], Defect.TRUNCATED, lines(1.0)),
    Case("cut in a key", SOUND[: SECOND + 20], Defect.TRUNCATED, lines(1.0)),
    Case("cut before a value", SOUND[: PLACES[1]], Defect.TRUNCATED, lines(1.0)),
    Case("cut in a value", SOUND[: PLACES[1] + 5], Defect.TRUNCATED, lines(1.0)),
    Case("cut in a timestamp", SOUND[: PLACES[1] + 12], Defect.TRUNCATED, lines(1.0)),
    Case("cut between entries", SOUND[: PLACES[1] + 16], Defect.TRUNCATED, lines(1.0, 2.0)),
    Case("all zero", bytes(65536), Defect.EMPTY),
    Case("used -1", put_used(-1), Defect.HEADER),
    Case("used 0", put_used(0), Defect.HEADER),
    Case("used 5", put_used(5), Defect.HEADER),
    Case("used +4", put_used(len(SOUND) + 4), Defect.TRUNCATED, ALL),
    Case("used +4 and room", put_used(len(SOUND) + 4) + ROOM, Defect.LENGTH, ALL),
    Case("used -3", put_used(len(SOUND) - 3), Defect.TRUNCATED, lines(1.0, 2.0)),
    Case("used -3 and room", put_used(len(SOUND) - 3) + ROOM, Defect.TRUNCATED, lines(1.0, 2.0)),
    Case("used too big", put_used(1 << 20), Defect.TRUNCATED, ALL),
    Case("used too big and room", put_used(len(SOUND) + 99) + ROOM, Defect.LENGTH, ALL),
    Case("used 2**31-1", put_used(2**31 - 1), Defect.HEADER),
    Case("key length 0", put_length(0), Defect.LENGTH, lines(1.0)),
    Case("key length negative", put_length(-8), Defect.LENGTH, lines(1.0)),
    Case("key length -2**31", put_length(-(2**31)), Defect.LENGTH, lines(1.0)),
    Case("key length huge", put_length(2**31 - 1), Defect.LENGTH, lines(1.0)),
)
BAD_KEYS: dict[str, str | bytes] = {
    "bad UTF-8": b'["bad_jobs", "bad_jobs_total", {"reason": "\xff"}, "Help."]',
    "no JSON": "bad_jobs",
    "JSON of 3 elements": '["bad_jobs", "bad_jobs_total", {}]',
    "JSON of 5 elements": '["bad_jobs", "bad_jobs_total", {}, "Help.", 1]',
    "a number": "17",
    "an object": '{"a": 1, "b": 2, "c": 3, "d": 4}',
    "labels a list": '["bad_jobs", "bad_jobs_total", [], "Help."]',
    "labels null": '["bad_jobs", "bad_jobs_total", null, "Help."]',
    "a label not a string": '["bad_jobs", "bad_jobs_total", {"reason": 1}, "Help."]',
    "a family not a string": '[1, "bad_jobs_total", {}, "Help."]',
    "a name not a string": '["bad_jobs", null, {}, "Help."]',
    "help not a string": '["bad_jobs", "bad_jobs_total", {}, 1]',
    "no family": '["", "bad_jobs_total", {}, "Help."]',
    "no name": '["bad_jobs", "", {}, "Help."]',
    # Each of these would make the page one that Prometheus refuses as a whole.
    "a label without a name": '["bad_jobs", "bad_jobs_total", {"": "x"}, "Help."]',
    "a family of two lines": '["bad_jobs\\n", "bad_jobs_total", {}, "Help."]',
    "a name of two lines": '["bad_jobs", "bad_jobs_total\\n", {}, "Help."]',
    "half a surrogate pair": '["bad_jobs", "bad_jobs_total", {"reason": "\\ud800"}, "Help."]',
}


@pytest.mark.parametrize("case", SHARDS, ids=lambda case: case.what)
def test_a_bad_shard_counts_as_far_as_it_can_be_read(exporter: Exporter, case: Case) -> None:
    exporter.write(case.data)
    for _ in range(2):
        exporter.check(case.reason, *case.shows)


@pytest.mark.parametrize("case", SHARDS, ids=lambda case: case.what)
def test_a_shard_that_goes_bad_keeps_its_last_good_values(exporter: Exporter, case: Case) -> None:
    path = exporter.write(SOUND)
    exporter.check(None, *ALL)
    exporter.fill(path, case.data)
    # What a reader that knows the shard calls it is its own affair, and nobody writes a key
    # twice: one that has gone bad since it was read need not be noticed.
    unread = case.data[:4] == SOUND[:4] and len(case.data) >= len(SOUND)
    for _ in range(2):
        page = exporter.scrape()
        assert (page.good, page.bad) == (exporter.good, sorted(ALL))
        assert sum(page.unreadable.values()) == 1 or (unread and not page.unreadable)
    exporter.fill(path, counters(4.0, 5.0, 6.0))
    exporter.check(None, *lines(4.0, 5.0, 6.0))


def test_what_can_be_read_of_a_bad_shard_goes_on(exporter: Exporter) -> None:
    path = exporter.write(SOUND)
    exporter.check(None, *ALL)
    exporter.fill(path, counters(10.0, 20.0, 30.0)[: PLACES[1]])
    exporter.check(Defect.TRUNCATED, *lines(10.0, 2.0, 3.0))


def test_a_bad_shard_that_is_removed_is_counted_no_more(own: Exporter) -> None:
    path = own.write(SOUND[: PLACES[1]])
    own.check(Defect.TRUNCATED, *lines(1.0))
    path.unlink()
    own.check(None, *lines(1.0))


@pytest.mark.parametrize("data", [b"", bytes(3), bytes(8), bytes(65536)], ids=len)
def test_what_a_living_process_has_yet_to_write_is_no_defect(
    exporter: Exporter, data: bytes
) -> None:
    path = exporter.write(data, LIVING)
    exporter.check(None)
    exporter.fill(path, SOUND)
    exporter.check(None, *ALL)


@pytest.mark.parametrize("what", BAD_KEYS)
def test_a_series_with_a_bad_key_is_left_out_alone(exporter: Exporter, what: str) -> None:
    exporter.write(put_key(BAD_KEYS[what]))
    for _ in range(2):
        exporter.check(Defect.KEY, *lines(1.0, None, 3.0))


@pytest.mark.parametrize("bound", ["abc", "", "nan", "1,5"])
def test_a_bucket_without_a_bound_is_left_out_alone(exporter: Exporter, bound: str) -> None:
    exporter.write(histogram({"1.0": 1.0, bound: 2.0, "+Inf": 3.0}), prefix="histogram")
    exporter.check(Defect.KEY, *histogram_lines({"1.0": 1.0, "+Inf": 4.0}))


# What values may be


def histogram(buckets: dict[str, float], total: float = 7.5) -> bytes:
    return render_shard(
        [
            (build_key("bad_wait", "bad_wait_sum", {}), total, 0.0),
            *(
                (build_key("bad_wait", "bad_wait_bucket", {"le": bound}), value, 0.0)
                for bound, value in buckets.items()
            ),
        ]
    )


def histogram_lines(buckets: dict[str, float], total: float = 7.5) -> tuple[str, ...]:
    """Say what a page shows of such a histogram, whose buckets are accumulated here already."""
    return (
        f"bad_wait_sum {total}",
        *(f'bad_wait_bucket{{le="{bound}"}} {value}' for bound, value in buckets.items()),
        f"bad_wait_count {[*buckets.values()][-1]}",
    )


def summary(count: float, total: float) -> bytes:
    parts = {"bad_cost_count": count, "bad_cost_sum": total}
    return render_shard((build_key("bad_cost", name, {}), v, 0.0) for name, v in parts.items())


@pytest.mark.parametrize("value", [float("nan"), -1.0, -5e-324, float("-inf")])
def test_a_counter_that_is_no_count_is_left_out_alone(exporter: Exporter, value: float) -> None:
    path = exporter.write(counters(1.0, value, 3.0))
    for _ in range(2):
        exporter.check(Defect.VALUE, *lines(1.0, None, 3.0))
    exporter.fill(path, counters(1.0, 2.0, 3.0))
    exporter.check(None, *ALL)
    exporter.fill(path, counters(4.0, value, 3.0))
    exporter.check(Defect.VALUE, *lines(4.0, 2.0, 3.0))


def test_a_huge_counter_is_a_counter(exporter: Exporter) -> None:
    exporter.write(counters(1e308, 2.0, 5e-324))
    exporter.check(None, *lines(1e308, 2.0, 5e-324))


def test_a_counter_that_falls_is_held_until_it_is_passed(exporter: Exporter) -> None:
    path = exporter.write(counters(5.0, 2.0, 3.0))
    exporter.check(None, *lines(5.0, 2.0, 3.0))
    for fallen in (3.0, 1.0, 4.0, 0.0):
        exporter.fill(path, counters(fallen, 2.0, 6.0))
        exporter.check(Defect.FELL, *lines(5.0, 2.0, 6.0))
    exporter.fill(path, counters(7.0, 2.0, 6.0))
    exporter.check(None, *lines(7.0, 2.0, 6.0))


@pytest.mark.parametrize("value", [float("nan"), -1.0])
def test_a_bucket_that_is_no_count_is_left_out_alone(exporter: Exporter, value: float) -> None:
    exporter.write(histogram({"1.0": 1.0, "5.0": value, "+Inf": 2.0}), prefix="histogram")
    exporter.check(Defect.VALUE, *histogram_lines({"1.0": 1.0, "+Inf": 3.0}))


@pytest.mark.parametrize("value", [float("nan"), -1.0])
def test_a_number_of_observations_that_is_no_count_is_left_out_alone(
    exporter: Exporter, value: float
) -> None:
    exporter.write(summary(value, 3.5), prefix="summary")
    exporter.check(Defect.VALUE, "bad_cost_sum 3.5")


def test_sums_and_gauges_may_be_negative(exporter: Exporter) -> None:
    exporter.write(histogram({"1.0": 1.0, "+Inf": 2.0}, -7.5), prefix="histogram")
    exporter.write(summary(2.0, -3.5), prefix="summary")
    gauges = [
        (build_key("bad_depth", "bad_depth", {"ccy": ccy}), value, 0.0)
        for ccy, value in (("EUR", -1.5), ("USD", float("-inf")), ("CHF", float("nan")))
    ]
    exporter.write(render_shard(gauges), prefix="gauge_livemax")
    exporter.check(
        None,
        *histogram_lines({"1.0": 1.0, "+Inf": 3.0}, -7.5),
        *("bad_cost_count 2.0", "bad_cost_sum -3.5"),
        *('bad_depth{ccy="EUR"} -1.5', 'bad_depth{ccy="USD"} -Inf', 'bad_depth{ccy="CHF"} NaN'),
    )


# What a shard may be called, and what it may be


@pytest.mark.parametrize(
    "name",
    [
        *("foo.db", "foo_bar.db", "counter.db", "counter_abc.db", "gauge_1001.db"),
        *("gauge_bogus_7.db", ".counter_1.db", ".db", "counter_1.db.tmp", "counter_0.db"),
        *("counter_2147483648.db", "counter_1\n.db", "counter_\udcff.db"),
    ],
    ids=ascii,
)
def test_a_file_called_almost_like_a_shard_is_counted_only(exporter: Exporter, name: str) -> None:
    (exporter.directory / name).write_bytes(SOUND)
    for _ in range(2):
        exporter.check(Defect.NAME)


@pytest.mark.parametrize("name", ["notes.txt", "counter_1", "db"])
def test_any_other_file_is_nobodys_business(exporter: Exporter, name: str) -> None:
    (exporter.directory / name).write_bytes(SOUND)
    exporter.check(None)


def make_socket(path: Path) -> None:
    # A socket's path has to be short, and a test's directory may lie deep.
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path.name)


def make_link_to_sound(path: Path) -> None:
    target = path.with_name("sound")
    target.write_bytes(SOUND)
    path.symlink_to(target)


def make_directory_with_shard(path: Path) -> None:
    path.mkdir()
    (path / path.name).write_bytes(SOUND)


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "a directory": Path.mkdir,
    "a directory with a shard": make_directory_with_shard,
    "a link to a shard": make_link_to_sound,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link loop": lambda path: path.symlink_to(path.name),
    "a FIFO": os.mkfifo,
    "a socket": make_socket,
}


@pytest.mark.parametrize("what", IRREGULAR)
def test_what_is_no_regular_file_is_no_shard(exporter: Exporter, what: str) -> None:
    IRREGULAR[what](exporter.directory / f"counter_{DEAD}.db")
    for _ in range(2):
        exporter.check(Defect.IRREGULAR)


@pytest.mark.parametrize("what", IRREGULAR)
def test_a_shard_may_become_something_else(exporter: Exporter, what: str) -> None:
    path = exporter.write(SOUND)
    exporter.check(None, *ALL)
    path.unlink()
    IRREGULAR[what](path)
    page = exporter.scrape()
    assert page.good == exporter.good
    assert page.unreadable == {Defect.IRREGULAR: 1}


@pytest.fixture
def unprivileged(tmp_path: Path, source: Path) -> Iterator[Exporter]:
    """Run a metricsd that may read only what file modes let it, even as root."""
    command: list[str | Path] = [sys.executable, CHILDREN / "without_override.py", *METRICSD]
    if os.geteuid() == 0:
        if sys.platform != "linux":
            pytest.skip("root reads every file, and only Linux takes that from it")
        probe = [*command[:2], shutil.which("true") or "true"]
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"root reads every file: {done.stderr.strip()}")
    with exporting(tmp_path, source, command) as exporter:
        yield exporter


def test_a_shard_that_may_not_be_read_is_counted(unprivileged: Exporter) -> None:
    path = unprivileged.write(SOUND)
    path.chmod(0)
    unprivileged.check(Defect.PERMISSION)
    path.chmod(0o600)
    unprivileged.check(None, *ALL)


def test_the_last_totals_stay_when_the_directory_may_not_be_read(unprivileged: Exporter) -> None:
    unprivileged.directory.chmod(0)
    try:
        for _ in range(2):
            assert unprivileged.scrape().good == unprivileged.good
    finally:
        unprivileged.directory.chmod(0o700)
    unprivileged.check(None)


# What may happen meanwhile


def test_the_last_totals_stay_when_the_directory_is_removed(own: Exporter) -> None:
    own.write(SOUND)
    own.check(None, *ALL)
    shutil.rmtree(own.directory)
    for _ in range(3):
        page = own.scrape()
        assert (page.good, page.bad) == (own.good, sorted(ALL))


def test_the_last_totals_stay_when_another_directory_takes_the_place(own: Exporter) -> None:
    lasting = [line for line in own.good if "good_live" not in line]
    aside = own.directory.with_name("aside")
    own.directory.rename(aside)
    assert own.scrape().good == own.good
    own.directory.mkdir()
    for _ in range(2):
        assert own.scrape().good == lasting
    own.write(SOUND)
    page = own.scrape()
    assert (page.good, page.bad) == (lasting, sorted(ALL))
    # When those same shards come back, nothing is counted twice.
    for shard in aside.glob("*.db"):
        shard.rename(own.directory / shard.name)
    for _ in range(2):
        own.check(None, *ALL)


def test_a_file_in_the_place_of_the_directory_is_no_end(own: Exporter) -> None:
    shutil.rmtree(own.directory)
    own.directory.write_bytes(SOUND)
    for _ in range(2):
        assert own.scrape().good == own.good


@pytest.mark.parametrize(
    ("way", "prefix"),
    [
        # A counter of a removed file stays, and a new file's is added: only live gauges go.
        *(("vanish", "counter"), ("vanish", "gauge_livemax")),
        *(("replace", "counter"), ("replace", "gauge_livemax")),
        *(("truncate", "counter"), ("rewrite", "counter")),
    ],
)
def test_a_shard_that_never_rests_costs_no_scrape(own: Exporter, way: str, prefix: str) -> None:
    path = own.write(SOUND + ROOM, LIVING, prefix)
    own.check(None, *ALL)
    scrapes = 0
    with disturbing(way, path) as changes:
        ends = time.monotonic() + DISTURBED_SECONDS
        while time.monotonic() < ends:
            page = own.scrape()  # 200, and from the same process
            assert page.good == own.good
            if prefix != "counter" or way in {"truncate", "rewrite"}:
                assert set(page.bad) <= set(ALL)
            scrapes += 1
    print(f"{way} {prefix}: {changes[0]} changes, {scrapes} scrapes")
    assert scrapes > 10
    assert own.metricsd.process.poll() is None
    if prefix != "counter" or way in {"truncate", "rewrite"}:
        own.check(None, *ALL)


@contextmanager
def disturbing(way: str, path: Path) -> Iterator[list[int]]:
    """Disturb a file meanwhile; afterwards the list says how often it was."""
    changes: list[int] = []
    with subprocess.Popen(
        [sys.executable, CHILDREN / "churner.py", way, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield changes
            changes.append(int(process.communicate(timeout=10)[0]))
            assert changes[0] > 10
        finally:
            process.kill()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "prom_multiproc"
    path.mkdir()
    return path


@pytest.fixture
def collector(directory: Path) -> Iterator[ShardCollector]:
    with collecting(directory) as collector:
        yield collector


@pytest.mark.parametrize("step", ["open", "fstat", "pread", "preadv"])
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_a_shard_may_vanish_at_each_step(
    directory: Path,
    collector: ShardCollector,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    known: bool,
) -> None:
    (directory / f"counter_{LIVING}.db").write_bytes(SOUND)
    vanishing = directory / f"gauge_livesum_{LIVING}.db"
    entries = [
        (build_key("bad_depth", "bad_depth", {"ccy": ccy}), 1.0, 0.0) for ccy in ("EUR", "USD")
    ]

    def scrape() -> Page:
        return Page(collector.render("").body.decode())

    if known:
        vanishing.write_bytes(render_shard(entries[:1]) + ROOM)
        assert 'bad_depth{ccy="EUR"} 1.0' in scrape().bad
    # One that is known has grown meanwhile, and is read by more steps than otherwise.
    with vanishing.open("r+b" if known else "wb") as file:
        file.write(render_shard(entries) + ROOM)
    itself = getattr(os, step)
    met = []

    def vanish_first(*arguments: Any, **keywords: Any) -> Any:
        if vanishing.exists():
            met.append(step)
            vanishing.unlink()
        return itself(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, vanish_first)
        page = scrape()
    assert set(ALL) <= set(page.bad)
    assert page.unreadable == {}
    page = scrape()
    assert page.unreadable == {}
    assert page.bad == sorted(ALL) or not met
    assert set(ALL) <= set(page.bad)
    assert met or known or step == "preadv", "a new shard is opened, looked at and read"
