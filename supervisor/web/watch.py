"""Looks at the supervisor and at metricsd, and tells every open page what it saw.

It asks the supervisor only while somebody watches, and however many do, once. metricsd's page
is read all the time, so that a chart has its past when it is opened.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.parser import text_string_to_metric_families

from supervisor.errors import PtsupError
from supervisor.report import read_report
from supervisor.web.history import LastSignal, Sample, Series, build_charts, find_signals
from supervisor.web.view import build_view, render_event
from telemetry.mode import find_probe_host, render_address
from telemetry.shards import ShardError, parse_key, read_shard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from supervisor.rundir import RunDir

STATUS_SECONDS: Final = 1.0
# The dearer an answer is the less often it is asked for; but who dies is seen within 3 s.
STATUS_SHARE: Final = 40.0
STATUS_LIMIT_SECONDS: Final = 2.0
SAMPLE_SECONDS: Final = 5.0
HISTORY_SECONDS: Final = 300.0
_ANSWER_SECONDS: Final = 4.0
_STRATEGIES_SECONDS: Final = 10.0
# A silent connection may be dropped on its way; a comment keeps it.
_BEAT_SECONDS: Final = 15.0


@dataclass(slots=True, kw_only=True)
class Watch:
    """What was seen last, and who is to be told of the next."""

    run_dir: RunDir
    public: bool
    audience: int = 0
    answered: bool = False  # whether a supervisor gave the last report
    _status: bytes = b""
    _charts: bytes = b""
    _samples: deque[Sample] = field(
        default_factory=lambda: deque(maxlen=int(HISTORY_SECONDS / SAMPLE_SECONDS) + 1)
    )
    _signals: dict[str, LastSignal] = field(default_factory=dict)
    _strategies: dict[str, frozenset[str]] = field(default_factory=dict)  # by session
    _strategies_at: dict[int, float] = field(default_factory=dict)  # by pid
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _watched: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: bool = False

    async def run(self) -> None:
        """Look for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_status())
            tasks.create_task(self._keep_samples())

    def end(self) -> None:
        """Let every open stream come to its end."""
        self._ended = True
        self._tell()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield server-sent events for one page, beginning with what was seen last."""
        self.audience += 1
        self._watched.set()
        try:
            sent: tuple[bytes, bytes] = (b"", b"")
            while not self._ended:
                now, news = (self._status, self._charts), self._news
                fresh = b"".join(a for a, b in zip(now, sent, strict=True) if a is not b)
                yield fresh or b": still here\n\n"
                sent = now
                try:
                    await asyncio.wait_for(news.wait(), _BEAT_SECONDS)
                except TimeoutError:
                    continue
        finally:
            self.audience -= 1
            if not self.audience:
                self._watched.clear()

    def _tell(self) -> None:
        told, self._news = self._news, asyncio.Event()
        told.set()

    # -- The supervisor ---------------------------------------------------------------------------

    async def _keep_status(self) -> None:
        while True:
            await self._watched.wait()
            began = time.monotonic()
            self._status = await asyncio.to_thread(self._read_status)
            self._tell()
            cost = time.monotonic() - began
            await asyncio.sleep(min(max(STATUS_SECONDS, cost * STATUS_SHARE), STATUS_LIMIT_SECONDS))

    def _read_status(self) -> bytes:
        try:
            document, self.answered = read_report(self.run_dir)
        except PtsupError as error:
            self.answered = False
            problem = "nothing answers" if self.public else error.message
            return render_event("problem", {"message": problem, "hint": error.hint})
        self._note_strategies(document)
        view = build_view(
            document,
            self._strategies,
            self._samples[-1] if self._samples else None,
            self._signals,
            time.monotonic(),
            public=self.public,
        )
        return render_event("status", view)

    def _note_strategies(self, document: dict[str, Any]) -> None:
        """Note which strategies each session counts for: its own shard names them."""
        now, directory = time.monotonic(), Path(document["shards"]["dir"])
        pids = {s["pid"]: s["name"] for s in document["sessions"] if s["pid"] is not None}
        read_at = self._strategies_at
        self._strategies_at = {pid: at for pid, at in read_at.items() if pid in pids}
        for pid, name in pids.items():
            if now - read_at.get(pid, -_STRATEGIES_SECONDS) < _STRATEGIES_SECONDS:
                continue
            self._strategies_at[pid] = now
            found = frozenset(_find_strategies(directory / f"counter_{pid}.db"))
            self._strategies[name] = found or self._strategies.get(name, found)

    # -- metricsd ---------------------------------------------------------------------------------

    async def _keep_samples(self) -> None:
        while True:
            sample = await asyncio.to_thread(self._take_sample)
            former = self._samples[-1] if self._samples else None
            self._signals.update(find_signals(former, sample))
            self._samples.append(sample)
            self._charts = render_event("charts", build_charts(self._samples, sample.at))
            self._tell()
            await asyncio.sleep(SAMPLE_SECONDS)

    def _take_sample(self) -> Sample:
        own = self.run_dir.read_own()
        host, port = own.get("host"), own.get("port")
        if not isinstance(host, str) or not isinstance(port, int):
            return Sample(time.monotonic(), None)
        address = render_address(find_probe_host(host), port)
        try:
            values = read_page(f"http://{address}/metrics")
        except (OSError, ValueError):  # a refusal, a time-out; an answer that is no page
            values = None
        return Sample(time.monotonic(), values)


def read_page(url: str) -> dict[Series, float]:
    """Read the sessions' series from metricsd's page; raises OSError, ValueError."""
    with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - http only
        text = answer.read().decode()
    ours = "".join(f"{line}\n" for line in text.split("\n") if line.startswith("peaktrade_"))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(ours)
        for sample in family.samples
    }


def _find_strategies(shard: Path) -> Iterator[str]:
    try:
        entries, _ = read_shard(shard)
    except (OSError, ShardError):  # not there yet, or gone
        return
    for raw, _, _ in entries:
        key = parse_key(raw, "counter")
        strategy = dict(key.labels).get("strategy_id") if key else None
        if strategy:
            yield strategy
