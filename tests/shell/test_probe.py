"""Health probes and the drain against a server that does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import pytest

from stack import find_free_port
from supervisor.config import METRICSD, METRICSD_POLICY
from supervisor.events import Drained, Event, Unhealthy
from supervisor.probe import Prober
from supervisor.process import Process, State
from supervisor.pulse import PulseLoop

RUNNING: Final = Process(
    name=METRICSD, policy=METRICSD_POLICY, state=State.RUNNING, incarnation=4, pid=7
)
Answer = Callable[[], Awaitable[dict[str, Any] | None]]


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=PulseLoop) as runner:
        runner.run(work)


class Scene:
    """A prober, what it posted, and a server that answers with what `answer` gives."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[float] = []
        self.posted: list[tuple[float, Event]] = []
        self.port = find_free_port()
        self.prober = Prober(
            host="127.0.0.1",
            port=self.port,
            find_metricsd=lambda: RUNNING,
            post=lambda event: self.posted.append((time.monotonic(), event)),
        )

    async def serve(self, work: Awaitable[Any], seconds: float) -> None:
        """Serve, and let the prober work for so long, or until it is done."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(work, seconds)
        # Not waited for: from Python 3.12 on that lasts as long as a client is being answered.
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        document = None
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked.append(time.monotonic())
            document = await self.answer()
            if document is not None:
                writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(document).encode())
        except (OSError, EOFError):
            pass
        finally:
            if document is None:
                writer.transport.abort()
            writer.close()

    def run(self, seconds: float) -> None:
        run(self.serve(self.prober.run(), seconds))


def test_who_answers_is_healthy_and_asked_once_a_second() -> None:
    async def answer() -> dict[str, Any]:
        return {"pid": 7, "shards_unreadable": {"empty": 2, "io": 1, "odd": "x"}}

    scene = Scene(answer)
    assert scene.prober.unreadable_shards == 0
    scene.run(2.5)
    assert scene.posted == []
    assert len(scene.asked) == 4  # at first once more, on the connection that is kept
    assert scene.prober.unreadable_shards == 3


def test_what_fails_at_a_beat_ends_the_probing_and_is_told() -> None:
    async def answer() -> dict[str, Any]:
        return {"pid": 7}

    def fail_at_the_second_beat(_now: float) -> None:
        if len(scene.asked) > 2:
            raise RuntimeError("as told")

    async def probe() -> None:
        try:
            await scene.prober.run()
        except RuntimeError as error:
            told.append(str(error))

    told: list[str] = []
    scene = Scene(answer)
    scene.prober.after = fail_at_the_second_beat
    run(scene.serve(probe(), 10))
    assert told == ["as told"]


def test_what_was_heard_long_ago_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer() -> dict[str, Any]:
        return {"pid": 7, "shards_unreadable": {"empty": 2}}

    scene = Scene(answer)
    scene.run(0.3)
    assert scene.prober.unreadable_shards == 2
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3.5)
    assert scene.prober.unreadable_shards == 0


def test_a_hang_is_noticed_within_two_seconds_of_its_beginning() -> None:
    hung = asyncio.Event()
    late = 0.0  # how late this machine wakes anybody

    async def sleep_and_look() -> None:
        nonlocal late
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            late = max(late, time.monotonic() - began - 0.01)

    async def answer() -> dict[str, Any]:
        if len(scene.asked) == 1:
            looking.append(asyncio.create_task(sleep_and_look()))
        if len(scene.asked) > 2:
            await hung.wait()
        return {"pid": 7}

    looking: list[asyncio.Task[None]] = []
    scene = Scene(answer)
    scene.run(2.5)  # the hang began right after the first answer: as late as it can be noticed
    assert [event for _, event in scene.posted] == [
        Unhealthy(METRICSD, 4, "did not answer within 0.98 s")
    ]
    assert 1.5 < scene.posted[0][0] - scene.asked[1] < 2 + 2 * late


def test_an_answer_that_takes_long_but_comes_is_health() -> None:
    async def answer() -> dict[str, Any]:
        await asyncio.sleep(0.7)
        return {"pid": 7}

    scene = Scene(answer)
    scene.run(2.5)
    assert scene.posted == []


@pytest.mark.parametrize("document", [None, {"pid": 8}])
def test_a_refusal_or_anothers_answer_is_asked_again_at_once(
    document: dict[str, Any] | None,
) -> None:
    async def answer() -> dict[str, Any] | None:
        return document if len(scene.asked) < 4 else {"pid": 7}

    scene = Scene(answer)
    scene.run(0.9)
    assert scene.posted == []
    assert len(scene.asked) == 5  # the last one on the connection that is kept


def test_a_wrong_answer_for_a_second_is_no_health() -> None:
    async def answer() -> dict[str, Any]:
        return {"pid": 8}

    scene = Scene(answer)
    scene.run(1.2)
    assert [type(event) for _, event in scene.posted] == [Unhealthy]
    assert 4 <= len(scene.asked) <= 14  # asked again and again, and not in a rush


def test_who_slept_itself_blames_nobody() -> None:
    async def answer() -> dict[str, Any] | None:
        if len(scene.asked) == 1:
            time.sleep(1.5)  # noqa: ASYNC251 - the supervisor was stopped
        return {"pid": 7} if len(scene.asked) > 1 else None

    scene = Scene(answer)
    scene.run(2.0)
    assert scene.posted == []
    assert len(scene.asked) >= 2


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRNOTAVAIL])
def test_who_has_no_descriptor_to_ask_with_blames_nobody(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def answer() -> dict[str, Any]:
        return {"pid": 7}

    async def connect(_host: str, _port: int) -> None:
        raise OSError(number, os.strerror(number))

    scene = Scene(answer)
    monkeypatch.setattr(asyncio, "open_connection", connect)
    scene.run(1.5)
    assert scene.posted == []


# -- The drain ------------------------------------------------------------------------------------


def test_the_drain_waits_for_a_scrape_that_began_after_it_was_asked_for() -> None:
    began = time.monotonic()

    async def answer() -> dict[str, Any]:
        # Scraped long ago; then, half a second after the drain began, once more.
        elapsed = time.monotonic() - began
        age = elapsed - 0.5 if elapsed > 0.5 else 60.0
        return {"pid": 7, "last_scrape_age_seconds": age, "scrape_interval_seconds": 5.0}

    scene = Scene(answer)
    asyncio.run(scene.serve(scene.prober.drain(), 5))
    assert [event for _, event in scene.posted] == [Drained()]
    assert scene.posted[0][0] - began >= 0.5
    assert scene.prober.drained.startswith("Prometheus scraped the last totals after")


def test_a_scrape_that_began_before_the_drain_is_not_the_last_one() -> None:
    began = time.monotonic()

    async def answer() -> dict[str, Any]:
        # It began 20 ms before the drain. Our answer takes longer than that to come.
        age = time.monotonic() - began + 0.02
        await asyncio.sleep(0.1)
        return {"pid": 7, "last_scrape_age_seconds": age, "scrape_interval_seconds": 0.4}

    scene = Scene(answer)
    asyncio.run(scene.serve(scene.prober.drain(), 5))
    assert [event for _, event in scene.posted] == [Drained()]
    assert scene.prober.drained == "no scrape by Prometheus came within 0.6 s"


def test_where_nobody_ever_scraped_there_is_nothing_to_wait_for() -> None:
    async def answer() -> dict[str, Any]:
        return {"pid": 7, "last_scrape_age_seconds": None}

    scene = Scene(answer)
    began = time.monotonic()
    asyncio.run(scene.serve(scene.prober.drain(), 5))
    assert time.monotonic() - began < 1
    assert scene.prober.drained == "nothing to wait for: no Prometheus ever scraped"
