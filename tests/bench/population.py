"""The sessions of a benchmark: the living and the dead, in the directory of each peer.

prometheus_client itself writes one shard of each kind; the other sessions' are the same bytes
with values of their own. The living's shards are hard links, so that one change of their values
is seen by every peer; the dead's are files for `stock`, sums for `folded`, a base for `ours`.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from prometheus_client import mmap_dict

from telemetry.base import Base, absorb
from telemetry.descriptors import raise_limit
from telemetry.fold import publish, write_next
from telemetry.labels import ALLOWLISTS
from telemetry.metrics import FAMILIES
from telemetry.shards import RETIRED, parse_slots, parse_values, read_shard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_library: Any = mmap_dict  # it has no types

# Pids that no process can have: only the names of the shards need them.
FIRST_LIVING: Final = 1_000_000_001
FIRST_DEAD: Final = 1_500_000_001
FOLDED: Final = 2_000_000_001
_HEADER_BYTES: Final = 8
_WORD: Final = 8
# So many different shards the dead left; each value of each is a small whole number.
_VARIANTS: Final = 5


def build_counter_keys(series: int) -> list[str]:
    """Name the counters of a session: the decisions and signals of as many strategies as needed."""
    chosen = [spec for spec in FAMILIES if spec.name.startswith("peaktrade_strategy_")]
    keys: list[str] = []
    for number in itertools.count():
        for spec in chosen:
            if spec.kind != "counter":
                continue
            label = spec.label_names[1]
            for value in ALLOWLISTS[label]:
                keys.append(_build_key(spec.name, (f"strategy_{number}", value)))
                if len(keys) == series:
                    return keys
    raise AssertionError


def build_gauge_keys() -> list[str]:
    """Name the seven gauges of a living session: one exposure, six utilizations."""
    limits = [(limit,) for limit in ALLOWLISTS["limit_id"]]
    return [
        _build_key("peaktrade_strategy_position_gross_exposure", ("strategy_0", "EUR")),
        *(_build_key("peaktrade_risk_limit_utilization", values) for values in limits),
    ]


def _build_key(name: str, values: tuple[str, ...]) -> str:
    spec = next(spec for spec in FAMILIES if spec.name == name)
    family = name.removesuffix("_total")
    key: str = _library.mmap_key(family, name, spec.label_names, values, spec.help)
    return key


@dataclass(frozen=True, slots=True)
class Template:
    """One shard as the library wrote it: its bytes, the words its values are, and its file's size.

    `columns` tells which series each of the words belongs to.
    """

    prefix: str
    image: bytes
    words: NDArray[np.intp]
    columns: NDArray[np.intp]
    size: int

    def write(self, path: Path, start: int) -> None:
        """Write a shard of this form; each value is `start` and a small number of its series."""
        image = np.frombuffer(bytearray(self.image), dtype=np.float64)
        image[self.words] = start + self.columns % _VARIANTS
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(descriptor, self.size)
            os.pwrite(descriptor, image.tobytes(), 0)
        finally:
            os.close(descriptor)


def make_template(prefix: str, keys: Sequence[str], order: Sequence[int] | None = None) -> Template:
    """Have the library write a shard with these keys, in this order of them."""
    order = range(len(keys)) if order is None else order
    with tempfile.TemporaryDirectory(prefix="ptsup-bench-") as directory:
        path = Path(directory) / f"{prefix}_1.db"
        written = _library.MmapedDict(str(path))
        for column in order:
            written.write_value(keys[column], 0.0, 0.0)
        written.close()
        data = path.read_bytes()
    used = int(np.frombuffer(data, dtype=np.int32)[0])
    slots, _, defect = parse_slots(data, _HEADER_BYTES, used)
    assert defect is None
    words = np.array([at // _WORD for _, at in slots], dtype=np.intp)
    return Template(prefix, data[:used], words, np.array(order, dtype=np.intp), len(data))


class Population:
    """Directories of one benchmark, removed at its end."""

    def __init__(self, series: int, *, orders_differ: bool = False) -> None:
        raise_limit()  # a mapping keeps a descriptor
        self._temporary = tempfile.TemporaryDirectory(prefix="ptsup-bench-")
        self.root = Path(self._temporary.name)
        self.series = series
        self.stock, self.folded, self.ours = (
            self._make(name) for name in ("stock", "folded", "ours")
        )
        self.dead = 0
        self._orders_differ = orders_differ
        self._keys = build_counter_keys(series)
        self._counters = make_template("counter", self._keys)
        self._gauges = make_template("gauge_livemax", build_gauge_keys())
        self._maps: list[mmap.mmap] = []
        self._values: list[tuple[NDArray[np.float64], NDArray[np.intp]]] = []

    def _make(self, name: str) -> Path:
        directory = self.root / name / "prom_multiproc"
        directory.mkdir(parents=True)
        return directory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._values.clear()
        for mapped in self._maps:
            mapped.close()
        self._temporary.cleanup()

    # -- Births, deaths, and what happens in between ---------------------------------------------

    def add_living(self, count: int) -> None:
        """Let so many sessions begin, in every peer's directory."""
        first = FIRST_LIVING + len(self._maps) // 2
        shuffle = random.Random(first).shuffle
        for pid in range(first, first + count):
            counters = self._counters
            if self._orders_differ:
                order = list(range(len(self._keys)))
                shuffle(order)
                counters = make_template("counter", self._keys, order)
            for template in (counters, self._gauges):
                path = self.ours / f"{template.prefix}_{pid}.db"
                template.write(path, pid % 1000)
                for directory in (self.stock, self.folded):
                    (directory / path.name).hardlink_to(path)
                self._map(path, template)

    def _map(self, path: Path, template: Template) -> None:
        with path.open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), template.size)
        self._maps.append(mapped)
        values = np.frombuffer(mapped, dtype=np.float64)
        self._values.append((values, template.words))

    def add_dead(self, count: int) -> None:
        """Let so many sessions have died: once, and before any peer is started."""
        assert not self.dead
        self.dead = count
        for number in range(count):
            path = self.stock / f"counter_{FIRST_DEAD + number}.db"
            self._counters.write(path, number % _VARIANTS)
        base = Base()
        for number in range(min(count, _VARIANTS)):
            alike = len(range(number, count, _VARIANTS))
            entries, defect = read_shard(self.stock / f"counter_{FIRST_DEAD + number}.db")
            assert defect is None
            summed = [(key, value * alike, stamp) for key, value, stamp in entries]
            base = absorb(base, number + 1, [("counter", "", FIRST_DEAD + number, summed)])
        retired = self.ours / RETIRED
        retired.mkdir(mode=0o700)
        write_next(retired, base)
        publish(retired)
        written = _library.MmapedDict(str(self.folded / f"counter_{FOLDED}.db"))
        for key, (value, stamp) in base.sections["counter", "", 0].items():
            written.write_value(key.decode(), value, stamp)
        written.close()

    def bump(self) -> None:
        """Change every value of the living, as they themselves would: in their mapped shards."""
        for values, words in self._values:
            values[words] += 1.0


def read_values(path: Path) -> dict[bytes, float]:
    """Read a shard's values by key."""
    data = path.read_bytes()
    used = int(np.frombuffer(data, dtype=np.int32)[0])
    slots, _, _ = parse_slots(data, _HEADER_BYTES, used)
    return {key: value for key, value, _ in parse_values(data, slots)}
