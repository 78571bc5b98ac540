"""What the ledgers say has been counted: at the least, and at the most.

Every line but the last of a ledger has been counted: the next is written only after that. So
has the last one of a ledger that was closed. The last line of any other may or may not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from stack import Series

BUCKETS = (("0.25", 0.25), ("0.5", 0.5), ("1.0", 1.0), ("+Inf", float("inf")))


def read_line(entry: dict[str, Any]) -> Iterator[tuple[Series, float]]:
    """Give what a line adds to each series."""
    metric, labels = entry["metric"], tuple(sorted(entry["labels"].items()))
    if "n" in entry:
        yield (metric, labels), entry["n"]
    elif "observe" in entry:
        amount = entry["observe"]
        yield (f"{metric}_count", labels), 1
        yield (f"{metric}_sum", labels), amount
        if metric == "chaos_wait_seconds":
            for text, bound in BUCKETS:
                if amount <= bound:
                    yield (f"{metric}_bucket", tuple(sorted((*labels, ("le", text))))), 1
    elif metric == "chaos_level_sum":  # set once a process
        yield (metric, labels), entry["set"]


@dataclass(slots=True)
class Tally:
    """Sums by series, and the maxima of the `max` gauge."""

    sums: defaultdict[Series, float] = field(default_factory=lambda: defaultdict(float))
    lines: int = 0

    def add(self, entry: dict[str, Any]) -> None:
        self.lines += 1
        if entry["metric"] == "chaos_level_max":
            series = (entry["metric"], tuple(sorted(entry["labels"].items())))
            self.sums[series] = max(self.sums[series], entry["set"])
        for series, amount in read_line(entry):
            self.sums[series] += amount


@dataclass(slots=True)
class Ledger:
    """One ledger, as far as it was read."""

    path: Path
    offset: int = 0
    pending: dict[str, Any] | None = None  # its last line, when that may not be counted yet
    closed: bool = False

    @property
    def owner(self) -> str:
        """The process: name, role and pid."""
        return self.path.name.rpartition(".")[0]

    def read(self) -> Iterator[dict[str, Any]]:
        """Read the lines that are new; a torn last one is none yet."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        if newline:
            self.offset += len(whole) + 1
            yield from map(json.loads, whole.splitlines())


class Ledgers:
    """All ledgers of a directory, followed as they grow."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ledgers: dict[str, Ledger] = {}
        self.sure = Tally()
        self.written = Tally()

    def read(self) -> None:
        """Take in what was written since."""
        for path in self._directory.iterdir():
            self._ledgers.setdefault(path.name, Ledger(path))
        for ledger in self._ledgers.values():
            if not ledger.closed:
                self._read(ledger)

    def _read(self, ledger: Ledger) -> None:
        for entry in ledger.read():
            if ledger.pending is not None:
                self.sure.add(ledger.pending)
            if "end" in entry:
                ledger.pending, ledger.closed = None, True
                return
            self.written.add(entry)
            ledger.pending = entry

    def find_open(self) -> list[Ledger]:
        """Find those that nobody closed."""
        return [ledger for ledger in self._ledgers.values() if not ledger.closed]

    def find_difference(
        self, page: dict[Series, float], least: dict[Series, float]
    ) -> dict[Series, str]:
        """Compare a page with `least`, what was sure before it, and with all that is written now.

        Says for each series that is wrong what is.
        """
        wrong = {}
        for series in {*least, *self.written.sums, *find_checked(page)}:
            value = page.get(series, 0.0)
            low, high = least.get(series, 0.0), self.written.sums.get(series, 0.0)
            if value < low:
                wrong[series] = f"{value:g} on the page, at least {low:g} counted"
            elif value > high:
                wrong[series] = f"{value:g} on the page, at most {high:g} counted"
        return wrong

    def explain(self, amounts: dict[Series, float]) -> list[str]:
        """Find the processes of which all that they counted is a part of these amounts.

        The amounts are what is missing on a page, or what is there too much.
        """
        by_owner: dict[str, Tally] = defaultdict(Tally)
        for ledger in self._ledgers.values():
            entries = list(Ledger(ledger.path).read())
            for entry in entries[:-1]:  # the end, or a line that may not count
                if entry["metric"] != "chaos_level_max":
                    by_owner[ledger.owner].add(entry)
        left = dict(amounts)
        found = []
        for owner, tally in sorted(by_owner.items(), key=lambda item: -item[1].lines):
            sums = {series: amount for series, amount in tally.sums.items() if amount}
            if sums and all(left.get(series, 0.0) >= amount for series, amount in sums.items()):
                left = {series: amount - sums.get(series, 0.0) for series, amount in left.items()}
                found.append(f"{owner} (all of its {tally.lines} lines)")
        rest = {series: amount for series, amount in left.items() if amount}
        return [*found, f"beside these, {sum(rest.values()):g} in {len(rest)} series"]


def find_checked(page: Iterable[Series]) -> set[Series]:
    """Find the series of the sessions that a ledger must explain; other gauges it cannot."""
    endings = ("_total", "_count", "_sum", "_bucket", "chaos_level_max")
    return {
        series
        for series in page
        if series[0].startswith(("chaos_", "peaktrade_")) and series[0].endswith(endings)
    }
