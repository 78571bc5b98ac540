"""Totals become a page, in the format a client asks for, as prometheus_client would write it.

The library's own encoders write each line once, with a mark in the place of the value; after
that a page is the values between the prepared pieces. It reads nothing and adds up nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

# At the module's own import, which comes late: the library decides then whether its metrics
# become shards, so the environment must not name a multiprocess directory any more.
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from telemetry.answers import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from telemetry.own_metrics import Statement
    from telemetry.plan import Family, Plan, Totals

    Encode = Callable[["_Registry"], bytes]

# A client names the version in its Accept header, so there is no end of content types.
_FORMATS_KEPT: Final = 8
_END: Final = "# EOF\n"
_PLAIN_BELOW: Final = 1e6


class Exposition:
    """Renders pages; keeps what it prepared for the present plan, for each content type."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prepared: OrderedDict[str, _Prepared] = OrderedDict()

    def choose(self, accept_header: str) -> Format:
        """Choose the format that an Accept header wishes for."""
        try:
            return Format(*choose_encoder(accept_header))
        except TypeError:  # the library cannot compare a version that is no number
            return Format(*choose_encoder(""))

    def render(self, chosen: Format, totals: Totals, own: Statement) -> Page:
        """Render what the shards add up to, then the families of our own."""
        with self._lock:
            prepared = self._prepared.setdefault(chosen.content_type, _Prepared(chosen))
            if len(self._prepared) > _FORMATS_KEPT:
                self._prepared.popitem(last=False)
            shards, ours, handed = prepared.find(totals, own)
        disputed = [_build_metric(family, values) for family, values in totals.disputed]
        texts = [
            shards.render(totals.values, totals.present),
            _encode(chosen, disputed) if disputed else "",
            ours.render(own.values, None),
            handed,
            chosen.end,
        ]
        return Page(chosen.content_type, "".join(texts).encode())


@dataclass(frozen=True, slots=True)
class Format:
    """One of the library's encoders, and the content type it writes."""

    encode: Encode
    content_type: str

    @property
    def end(self) -> str:
        """What the page ends with."""
        return _END if self.content_type.startswith("application/openmetrics-text") else ""


class _Prepared:
    """The parts of a page in one format that change seldom."""

    def __init__(self, chosen: Format) -> None:
        self._format = chosen
        self._plan: Plan | None = None
        self._shards = _Template([])
        self._families: tuple[Family, ...] = ()
        self._ours = _Template([])
        self._metrics: Sequence[Metric] = ()
        self._handed = ""

    def find(self, totals: Totals, own: Statement) -> tuple[_Template, _Template, str]:
        """Find the lines of the shards, our own and what was handed over; prepare what is new."""
        plan = totals.plan
        if plan is not self._plan:
            kept = [family for family in plan.families if family.name not in plan.disputed]
            self._shards, self._plan = self._prepare(kept), plan
        if own.families != self._families:
            self._ours, self._families = self._prepare(own.families), own.families
        if own.handed is not self._metrics:
            self._handed, self._metrics = _encode(self._format, own.handed), own.handed
        return self._shards, self._ours, self._handed

    def _prepare(self, families: Iterable[Family]) -> _Template:
        return _Template([line for family in families for line in _prepare(family, self._format)])


class _Line(NamedTuple):
    """A line up to its value, the value's slot, and the heading that comes before it, if any."""

    heading: str
    text: str
    slot: int  # negative: no line, the heading alone


class _Template:
    """Lines with the places of their values."""

    def __init__(self, lines: Sequence[_Line]) -> None:
        self._lines = lines
        self._slots = [line.slot for line in lines if line.slot >= 0]
        # The text between the values, beginning and ending with some.
        self._pieces = [""]
        for line in lines:
            self._pieces[-1] += line.heading + line.text
            if line.slot >= 0:
                self._pieces.append("\n")

    def render(self, values: Sequence[float], present: Sequence[bool] | None) -> str:
        """Put the values in their places; leave out the lines whose value is not there."""
        slots = self._slots
        if present is None or all(map(present.__getitem__, slots)):
            parts = [""] * (len(slots) + len(self._pieces))
            parts[::2] = self._pieces
            parts[1::2] = [_render_value(values[slot]) for slot in slots]
            return "".join(parts)
        return "".join(
            f"{heading}{text}{_render_value(values[slot])}\n"
            if slot >= 0 and present[slot]
            else heading
            for heading, text, slot in self._lines
        )


class _Registry:
    """What the library's encoders take for a registry."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _prepare(family: Family, chosen: Format) -> Iterator[_Line]:
    """Have the library write a family with the number of each sample as its value."""
    metric = _build_metric(family, range(len(family.samples)))
    heading = ""
    for line in _encode(chosen, [metric]).split("\n")[:-1]:
        if line.startswith("# "):
            heading += f"{line}\n"
        else:
            before, _, mark = line.rpartition(" ")
            yield _Line(heading, f"{before} ", family.samples[int(float(mark))].slot)
            heading = ""
    if heading:
        yield _Line(heading, "", -1)


def _encode(chosen: Format, metrics: Sequence[Metric]) -> str:
    return chosen.encode(_Registry(metrics)).decode().removesuffix(_END)


def _build_metric(family: Family, values: Iterable[float]) -> Metric:
    metric = Metric(family.name, family.help, family.kind)
    for sample, value in zip(family.samples, values, strict=True):
        metric.add_sample(sample.name, dict(sample.labels), value)
    return metric


def _render_value(value: float) -> str:
    # As the library writes it, which turns to exponents from a million on.
    if -_PLAIN_BELOW < value < _PLAIN_BELOW:
        return repr(value)
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]  # the library's gap
