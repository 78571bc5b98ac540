"""The page equals what prometheus_client makes of the same shards, whatever becomes of them.

Hypothesis writes the lives of some processes: they write, grow, die, are claimed and folded, and
their pids are used again. The reference is `MultiProcessCollector` over every shard there ever
was, none of them claimed; dead processes' live gauges have gone there too.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.openmetrics import exposition
from prometheus_client.utils import floatToGoString

from collecting import collecting
from fuzz_shards import build_key
from telemetry.gathering import Gatherer
from telemetry.groups import Group
from telemetry.layouts import Layouts
from telemetry.shards import GAUGE_MODES, RETIRED, render_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from telemetry.collector import ShardCollector
    from telemetry.groups import Layout, Source

CASES = int(os.environ.get("PTSUP_EQUALITY_CASES", "300"))
SEED = int(os.environ.get("PTSUP_EQUALITY_SEED", "1"))
# Small enough for each core to have some of them, and for one to be done in good time.
PARTS = max(2, CASES // 1000)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TOLERANCE = 1e-9
# One case in so many is written by the library itself.
BY_THE_LIBRARY = 16

PREFIXES = (
    *("counter", "histogram", "summary"),
    *(f"gauge_{mode}" for mode in GAUGE_MODES),
)
PIDS = (1001, 1002, 2**31 - 1)
# Label names that the label policy allows; the values may be anything.
LABELS = (("strategy_id", "decision"), ("ccy",), ("reason", "check"), ())
TEXTS = (
    "",
    "EUR",
    "a b",
    "back\\slash",
    'quo"te',
    "new\nline",
    "ünï\U0001f40d",
    "\r\t\x85\u2028\0",
)
# Sums of these do not depend on the order: eighths, and not too many digits.
COUNTS = (0.0, 1.0, 2.0, 3.0, 0.125, 17.5, 999999.0, 1e6, 123456789.0, 2.0**40, 0.1, 1 / 3)
VALUES = (*COUNTS[:-2], -1.0, -0.125, -999999.0, -(2.0**40))
# Of the gauges that do not add, also what makes sums inexact.
EXTREMES = (*VALUES, 0.1, -1 / 3, 1e300, -1e-300, float("inf"), float("-inf"))
BOUNDS = ((0.5, 1.0, float("inf")), (0.005, 2.5, 1e6, float("inf")))

# How often was: a prefix, folded or not, grown since it was read or not.
Cell: TypeAlias = tuple[str, bool, bool]
Series: TypeAlias = dict[bytes, tuple[float, float]]


@dataclass(frozen=True)
class Write:
    """A process counts or sets some series; what it has not written before is created."""

    pid: int
    prefixes: tuple[str, ...]  # of the kinds and modes it does so with
    family: int
    labels: int
    first: int  # of the texts that its labels take
    series: int
    amount: int
    together: bool  # another process writes the same series, in the opposite order
    scraped: bool  # as soon as it is written


@dataclass(frozen=True)
class Kill:
    """A process dies and its shards are claimed; the claim may stay open for now."""

    pid: int
    complete: bool


@dataclass(frozen=True)
class Fold:
    """What is claimed is completed and folded."""


@dataclass(frozen=True)
class Scrape:
    """The page is compared."""


Step: TypeAlias = Write | Kill | Fold | Scrape

WRITES = st.builds(
    Write,
    pid=st.sampled_from(PIDS),
    prefixes=st.builds(
        lambda first, count: (PREFIXES * 2)[first : first + count],
        st.integers(0, len(PREFIXES) - 1),
        st.sampled_from((1, 3, 7, len(PREFIXES))),
    ),
    family=st.integers(0, 1),
    labels=st.integers(0, len(LABELS) - 1),
    first=st.integers(0, 15),
    series=st.sampled_from((1, 2, 3, 70)),
    amount=st.integers(0, len(EXTREMES) - 1),
    together=st.integers(1, 4).map(lambda drawn: drawn == 4),
    scraped=st.booleans(),
)
STEPS: st.SearchStrategy[Step] = st.one_of(
    WRITES,
    WRITES,
    WRITES,
    st.builds(Scrape),
    st.builds(Kill, pid=st.sampled_from(PIDS), complete=st.booleans()),
    st.builds(Fold),
)


@dataclass(frozen=True)
class Plan:
    """What happens in one directory, and the texts its labels and helps are made of."""

    steps: list[Step]
    texts: list[str]
    by_the_library: bool


PLANS = st.builds(
    Plan,
    steps=st.lists(STEPS, min_size=10, max_size=30),
    texts=st.lists(st.text(max_size=8), min_size=2, max_size=4, unique=True),
    by_the_library=st.integers(1, BY_THE_LIBRARY).map(lambda drawn: drawn == BY_THE_LIBRARY),
)


@dataclass
class Shard:
    """One shard of one incarnation, and the copy of it that stays unclaimed."""

    prefix: str
    pid: int
    copy: Path
    path: Path
    series: Series = field(default_factory=dict)
    read: int = 0  # how many series it had when it was last on a page
    grown: bool = False
    dirty: bool = True


class World:
    """The processes, their shards and the copies, as the steps of a plan change them."""

    def __init__(self, root: Path, plan: Plan, cells: Counter[Cell]) -> None:
        self.directory = root / "prom_multiproc"
        self.directory.mkdir(parents=True)
        self.copies = root / "copies"
        self.texts = [*TEXTS, *(text for text in plan.texts if text not in TEXTS)]
        self.by_the_library = plan.by_the_library
        self.cells = cells
        self.living: dict[tuple[int, str], Shard] = {}
        self.dead: list[Shard] = []  # in the order of their claims
        self.folded: set[str] = set()
        self.claimed: set[str] = set()
        self.open: dict[int, Path] = {}
        self.claims = 0
        self.clock = itertools.count(1)
        self.numbers = itertools.count(1)

    def perform(self, step: Step, collector: ShardCollector) -> None:
        match step:
            case Write():
                self.write(step, step.pid, 1)
                if step.together:
                    other = PIDS[(PIDS.index(step.pid) + 1) % len(PIDS)]
                    self.write(step, other, -1)
                if step.scraped:
                    self.compare(collector)
            case Kill():
                self.kill(step.pid, complete=step.complete)
            case Fold():
                self.complete_all()
                self.flush()
                fold(collector)
                self.folded |= self.claimed
            case Scrape():
                self.compare(collector)

    # -- What processes do --------------------------------------------------------------------

    def write(self, step: Write, pid: int, direction: int) -> None:
        for prefix in step.prefixes:
            shard = self.living.get((pid, prefix))
            if shard is None:
                name = f"{prefix}_{pid}.db"
                copy = self.copies / str(next(self.numbers)) / name
                copy.parent.mkdir(parents=True)
                shard = Shard(prefix, pid, copy, self.directory / name)
                self.living[pid, prefix] = shard
            numbers = range(min(step.series, 70 // len(step.prefixes)))
            for number in numbers[::direction]:
                changed = replace(step, pid=pid, amount=(step.amount + number) % len(EXTREMES))
                labels = self.choose_labels(step, number)
                for key, change in self.build_changes(changed, prefix, labels):
                    value, _ = shard.series.get(key, (0.0, 0.0))
                    shard.series[key] = change(value)
            shard.grown |= 0 < shard.read < len(shard.series)
            shard.dirty = True

    def choose_labels(self, step: Write, number: int) -> dict[str, str]:
        texts = self.texts
        chosen = {
            name: texts[(step.first + number + place) % len(texts)]
            for place, name in enumerate(LABELS[step.labels])
        }
        if number >= len(texts) and chosen:
            name = next(iter(chosen))
            chosen[name] += f"{number}" * 40  # so many that the file has to grow
        return chosen

    def build_changes(
        self, step: Write, prefix: str, labels: dict[str, str]
    ) -> Iterator[tuple[bytes, Callable[[float], tuple[float, float]]]]:
        family = f"eq_{prefix}_{step.family}"
        help_text = f"{step.family} {self.texts[len(prefix) % len(self.texts)]}"

        def key(name: str, **more: str) -> bytes:
            return build_key(family, name, {**labels, **more}, help_text)

        count = COUNTS[step.amount % len(COUNTS)]
        match prefix:
            case "counter":
                yield key(f"{family}_total"), adding(count)
            case "summary":
                yield key(f"{family}_count"), adding(1)
                yield key(f"{family}_sum"), adding(-count)
            case "histogram":
                yield key(f"{family}_sum"), adding(count)
                bounds = BOUNDS[(step.family + step.pid) % 2]
                at = next(bound for bound in bounds if count <= bound)
                for bound in bounds:
                    le = floatToGoString(bound)  # type: ignore[no-untyped-call]
                    yield key(f"{family}_bucket", le=le), adding(float(bound == at))
            case _:
                yield key(family), lambda _: self.set_gauge(step, prefix)

    def set_gauge(self, step: Write, prefix: str) -> tuple[float, float]:
        if prefix.endswith("sum"):
            value = (*VALUES, -0.0)[step.amount % (len(VALUES) + 1)]
        elif prefix.endswith(("min", "max")):
            value = EXTREMES[step.amount]
        else:
            value = (*EXTREMES, float("nan"), -0.0)[(step.amount * 7) % (len(EXTREMES) + 2)]
        if not prefix.endswith("mostrecent"):
            return value, 0.0
        # One in eight was created and has never been set. No two were set at once: which of
        # them counts would depend on the order of the files.
        return (value, float(next(self.clock))) if step.first % 8 else (0.0, 0.0)

    # -- What becomes of their shards ---------------------------------------------------------

    def kill(self, pid: int, *, complete: bool) -> None:
        dying = [self.living[place] for place in sorted(self.living) if place[0] == pid]
        if not dying:
            return
        if pid in self.open:
            self.complete(pid)
        self.flush()
        claim = self.directory / RETIRED / f"open-{next(self.numbers)}"
        claim.mkdir(parents=True)
        for shard in dying:
            del self.living[shard.pid, shard.prefix]
            shard.path = shard.path.rename(claim / shard.path.name)
            self.claimed.add(shard.prefix)
            if "_live" in shard.prefix:
                shard.copy.unlink()
            else:
                self.dead.append(shard)
        mark_process_dead(pid, path=str(claim))  # type: ignore[no-untyped-call]
        self.open[pid] = claim
        if complete:
            self.complete(pid)

    def complete(self, pid: int) -> None:
        self.claims += 1
        self.open.pop(pid).rename(self.directory / RETIRED / f"claim-{self.claims}")

    def complete_all(self) -> None:
        for pid in list(self.open):
            self.complete(pid)

    def flush(self) -> None:
        """Write to the files what the processes have written."""
        for shard in self.living.values():
            if not shard.dirty:
                continue
            if self.by_the_library:
                write_by_the_library(shard.path, shard.series)
                write_by_the_library(shard.copy, shard.series)
            else:
                write_in_place(shard.path, shard.series)
                write_in_place(shard.copy, shard.series)
            shard.dirty = False

    # -- The page -----------------------------------------------------------------------------

    def compare(self, collector: ShardCollector) -> None:
        self.flush()
        paths = [shard.copy for shard in self.dead]
        paths += sorted((shard.copy for shard in self.living.values()), key=lambda path: path.name)
        merged = Merged(list(MultiProcessCollector.merge(paths)))  # type: ignore[no-untyped-call]
        for accept, stock in (
            ("", generate_latest(merged)),
            (OPENMETRICS, exposition.generate_latest(merged)),  # type: ignore[no-untyped-call]
        ):
            compare_pages(collector.render(accept).body.decode(), stock.decode())
        for shard in self.living.values():
            self.cells[shard.prefix, shard.prefix in self.folded, shard.grown] += 1
            shard.read = len(shard.series)
        for shard in self.dead:
            self.cells[shard.prefix, shard.prefix in self.folded, shard.grown] += 1


@dataclass(frozen=True)
class Merged:
    """What encoders take for a registry."""

    metrics: Sequence[Any]

    def collect(self) -> Sequence[Any]:
        return self.metrics


def adding(amount: float) -> Callable[[float], tuple[float, float]]:
    return lambda old: (old + amount, 0.0)


def fold(collector: ShardCollector) -> None:
    """Fold all that is claimed."""
    while collector.fold():
        pass


def write_in_place(path: Path, series: Series) -> None:
    """Write a shard as the library does: in place, with room up to a power of two."""
    data = render_shard((key, *pair) for key, pair in series.items())
    size = 1 << (len(data) + 63).bit_length()
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate(max(size, path.stat().st_size))


def write_by_the_library(path: Path, series: Series) -> None:
    shard: Any = MmapedDict(str(path))  # type: ignore[no-untyped-call]
    for key, pair in series.items():
        shard.write_value(key.decode(), *pair)
    shard.close()


def compare_pages(ours: str, stock: str) -> None:
    """Compare two pages but for the order of families and samples, and our own families."""
    mine, theirs = parse_page(ours), parse_page(stock)
    mine = {
        (help_line, type_line): samples
        for (help_line, type_line), samples in mine.items()
        if not type_line.startswith("# TYPE ptsup_")  # a help may say anything
    }
    assert mine.keys() == theirs.keys()
    for header, samples in theirs.items():
        assert mine[header].keys() == samples.keys()
        for name, value in samples.items():
            assert is_same(mine[header][name], value), (name, mine[header][name], value)


def is_same(ours: str, stock: str) -> bool:
    """Tell whether two values are the same: to the byte, but for the last digits of a sum."""
    if ours == stock:
        return True
    mine, theirs = float(ours), float(stock)
    if mine.is_integer() and theirs.is_integer():
        return False
    return abs(mine - theirs) <= TOLERANCE * abs(theirs)


def parse_page(page: str) -> dict[tuple[str, str], dict[str, str]]:
    """Split a page into families by help and type, and these into values by name and labels."""
    families: dict[tuple[str, str], dict[str, str]] = {}
    *lines, last = page.split("\n")
    assert last == ""
    samples: dict[str, str] = {}
    help_line = ""
    for line in lines:
        if line.startswith("# HELP "):
            help_line = line
        elif line.startswith("# TYPE "):
            assert line.split(" ")[2] == help_line.split(" ")[2]
            assert (help_line, line) not in families
            samples = families[help_line, line] = {}
        elif line == "# EOF":
            assert line is lines[-1]
            families[line, line] = {}
        else:
            name, _, value = line.rpartition(" ")
            assert name not in samples, line
            samples[name] = value
    return families


def compare_cases(
    root: Path, cases: int, first_seed: int, phases: Sequence[Phase]
) -> Counter[Cell]:
    """Let so many directories live, every page compared; count what was met."""
    cells: Counter[Cell] = Counter()
    numbers = itertools.count()

    def check(plan: Plan) -> None:
        place = root / str(next(numbers))
        world = World(place, plan, cells)
        with collecting(world.directory) as collector:
            for step in (*plan.steps, Scrape()):
                world.perform(step, collector)
            world.complete_all()
            world.compare(collector)
        shutil.rmtree(place)

    settled = settings(
        max_examples=cases,
        database=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    seed(first_seed)(settled(given(PLANS)(check)))()
    print(f"seed {first_seed}: {next(numbers)} directories")
    return cells


@pytest.fixture(autouse=True)
def _without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    # A disk's time, thousands of times over, and nothing of what is tested here.
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_page_is_the_librarys_own(tmp_path: Path, part: int) -> None:
    cells = compare_cases(tmp_path, CASES // PARTS, SEED + part, (Phase.generate, Phase.shrink))
    print_cells(cells)
    missing = [
        cell
        for cell in itertools.product(PREFIXES, (False, True), (False, True))
        if not cells[cell]
    ]
    assert not missing


def test_a_help_may_name_our_own_families(tmp_path: Path) -> None:
    write = Write(
        pid=PIDS[0],
        prefixes=("histogram",),
        family=0,
        labels=0,
        first=0,
        series=1,
        amount=0,
        together=False,
        scraped=False,
    )
    plan = Plan([write], ["a", "of ptsup_sessions"], by_the_library=False)
    world = World(tmp_path, plan, Counter())
    with collecting(world.directory) as collector:
        world.perform(write, collector)
        world.compare(collector)


def _miss_new_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Gatherer.refresh

    def refresh(self: Gatherer, group: Group) -> list[Source]:
        real(self, group)
        return []

    monkeypatch.setattr(Gatherer, "refresh", refresh)


def _share_layouts_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    def match(_self: Layouts, _layout: Layout, files: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones(len(files), dtype=bool)

    monkeypatch.setattr(Layouts, "match", match)


def _share_layouts_of_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_index(self: Group) -> NDArray[np.int32]:
        layout = self.sources[0].layout
        assert layout is not None
        return layout.index

    monkeypatch.setattr(Group, "find_index", find_index)


@pytest.mark.parametrize(
    "break_it", [_miss_new_tails, _share_layouts_of_one_length, _share_layouts_of_one_group]
)
def test_a_broken_reading_is_seen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
) -> None:
    break_it(monkeypatch)
    with pytest.raises(AssertionError):
        compare_cases(tmp_path, 300, SEED, (Phase.generate,))


def print_cells(cells: Counter[Cell]) -> None:
    print(f"{'':24}{'new':>9}{'grown':>9}{'folded':>9}{'both':>9}")
    for prefix in PREFIXES:
        counts = [
            cells[prefix, folded, grown] for folded in (False, True) for grown in (False, True)
        ]
        print(f"{prefix:24}" + "".join(f"{count:9}" for count in counts))
