"""Totals become a page, in the format a client asks for, as prometheus_client would write it.

The library's own encoders write each line once, with a mark in the place of the value; after
that a page is the values between the prepared pieces. It reads nothing and adds up nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

# At the module's own import, which comes late: the library decides then whether its metrics
# become shards, so the environment must not name a multiprocess directory any more.
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from telemetry.answers import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from telemetry.families import Family, Plan, Totals

    Encode = Callable[["_Registry"], bytes]

# A client names the version in its Accept header, so there is no end of content types.
_FORMATS_KEPT: Final = 8
_END: Final = b"# EOF\n"


class Exposition:
    """Renders pages; keeps the prepared pieces of the present plan for each content type."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._formats: OrderedDict[str, tuple[_Template, ...]] = OrderedDict()

    def choose(self, accept_header: str) -> Format:
        """Choose the format that an Accept header wishes for."""
        try:
            return Format(*choose_encoder(accept_header))
        except TypeError:  # the library cannot compare a version that is no number
            return Format(*choose_encoder(""))

    def render(self, chosen: Format, totals: Totals, own: Sequence[Metric]) -> Page:
        """Render what the shards add up to, then the families of our own."""
        texts = list(map(_render_value, totals.values))
        pieces = [
            template.render(texts, totals.present) for template in self._find(chosen, totals.plan)
        ]
        disputed = [_build_metric(family, values) for family, values in totals.disputed]
        body = chosen.encode(_Registry([*disputed, *own]))
        # What ends the page in OpenMetrics ends the last part of it.
        return Page(chosen.content_type, b"".join([*pieces, body]))

    def _find(self, chosen: Format, plan: Plan) -> tuple[_Template, ...]:
        with self._lock:
            if plan is not self._plan:
                self._plan = plan
                self._formats.clear()
            templates = self._formats.get(chosen.content_type)
            if templates is None:
                templates = tuple(
                    _prepare(family, chosen)
                    for family in plan.families
                    if family.name not in plan.disputed
                )
                self._formats[chosen.content_type] = templates
                if len(self._formats) > _FORMATS_KEPT:
                    self._formats.popitem(last=False)
            return templates


@dataclass(frozen=True, slots=True)
class Format:
    """One of the library's encoders, and the content type it writes."""

    encode: Encode
    content_type: str


@dataclass(frozen=True, slots=True)
class _Template:
    """The lines of one family: what does not change, and the slots of the values in between."""

    head: bytes
    lines: tuple[tuple[bytes, int], ...]  # a line up to its value, and the value's slot
    # Lines that the text format moves to families of their own, behind: head and lines again.
    tail: tuple[_Template, ...] = ()

    def render(self, texts: Sequence[bytes], present: Sequence[bool]) -> bytes:
        lines = [b"%b%b\n" % (line, texts[slot]) for line, slot in self.lines if present[slot]]
        body = self.head + b"".join(lines)
        return body + b"".join(part.render_if_any(texts, present) for part in self.tail)

    def render_if_any(self, texts: Sequence[bytes], present: Sequence[bool]) -> bytes:
        return self.render(texts, present) if any(present[slot] for _, slot in self.lines) else b""


class _Registry:
    """What the library's encoders take for a registry."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _prepare(family: Family, chosen: Format) -> _Template:
    """Have the library write a family with the number of each sample as its value."""
    metric = _build_metric(family, range(len(family.samples)))
    text = chosen.encode(_Registry([metric])).removesuffix(_END)
    parts: list[tuple[list[bytes], list[tuple[bytes, int]]]] = []
    for line in text.split(b"\n")[:-1]:
        if line.startswith(b"# "):
            if not parts or parts[-1][1]:
                parts.append(([], []))
            parts[-1][0].append(line + b"\n")
        else:
            before, _, mark = line.rpartition(b" ")
            slot = family.samples[int(float(mark))].slot
            parts[-1][1].append((before + b" ", slot))
    first, *more = [_Template(b"".join(head), tuple(lines)) for head, lines in parts]
    return _Template(first.head, first.lines, tuple(more))


def _build_metric(family: Family, values: Iterable[float]) -> Metric:
    metric = Metric(family.name, family.help, family.kind)
    for sample, value in zip(family.samples, values, strict=True):
        metric.add_sample(sample.name, dict(sample.labels), value)
    return metric


def _render_value(value: float) -> bytes:
    return str(floatToGoString(value)).encode()  # type: ignore[no-untyped-call]  # the library's gap
