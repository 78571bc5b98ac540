"""A loop that beats in its waits: a beat alone turns nothing, and what comes of one is done."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.pulse import PulseLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

BEAT_SECONDS = 0.01


class CountingLoop(PulseLoop):
    """Counts its turns."""

    turns = 0

    def _run_once(self) -> None:
        self.turns += 1
        super()._run_once()  # type: ignore[misc]  # asyncio's own


class Scene:
    """A loop that beats, and whatever is to be done at each beat."""

    def __init__(self) -> None:
        self.loop = CountingLoop()
        self.beats: list[float] = []
        self.do: Callable[[], object] = int

    def beat(self, now: float) -> None:
        self.beats.append(now)
        self.do()

    def run(self, work: Coroutine[Any, Any, None], seconds: float = BEAT_SECONDS) -> None:
        self.loop.start_beats(time.monotonic() + seconds, seconds, self.beat)
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(asyncio.wait_for(work, 10))

    def after(self, beats: int, act: Callable[[], object]) -> Callable[[], None]:
        """Do that at one beat, and nothing at all others."""

        def do() -> None:
            if len(self.beats) == beats:
                act()

        return do


@pytest.fixture(params=[True, False], ids=["polled", "asked"])
def scene(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """One where the selector's own descriptor is waited for (as here), and one where it is not."""
    monkeypatch.setattr("supervisor.kernel.POLLS_SELECTORS", request.param)
    return Scene()


def test_beats_of_which_nothing_comes_turn_no_loop(scene: Scene) -> None:
    async def wait() -> None:
        told = asyncio.Event()
        scene.do = scene.after(20, told.set)
        before = scene.loop.turns
        await told.wait()
        assert scene.loop.turns - before <= 3

    scene.run(wait())
    assert len(scene.beats) == 20
    pauses = [later - at for at, later in zip(scene.beats, scene.beats[1:], strict=False)]
    assert min(pauses) >= BEAT_SECONDS


def test_a_task_that_a_beat_wakes_goes_on_before_the_next_beat(scene: Scene) -> None:
    async def wait() -> None:
        told = asyncio.Event()
        scene.do = scene.after(1, told.set)
        await told.wait()
        assert len(scene.beats) == 1

    scene.run(wait(), 0.3)


def test_a_timer_that_a_beat_sets_is_waited_for_though_nothing_else_was(scene: Scene) -> None:
    async def wait() -> None:
        told = asyncio.Event()
        scene.do = scene.after(2, lambda: scene.loop.call_later(2.5 * BEAT_SECONDS, told.set))
        await told.wait()
        assert time.monotonic() - scene.beats[1] >= 2.5 * BEAT_SECONDS

    scene.run(wait())


def test_timers_and_io_come_between_beats_as_without_them(scene: Scene) -> None:
    async def wait() -> None:
        began = time.monotonic()
        await asyncio.sleep(5.5 * BEAT_SECONDS)
        assert time.monotonic() - began >= 5.5 * BEAT_SECONDS
        assert scene.beats
        reader, writer = socket.socketpair()
        with reader, writer:
            reader.setblocking(False)
            scene.loop.call_later(3.5 * BEAT_SECONDS, writer.send, b"x")
            assert await scene.loop.sock_recv(reader, 1) == b"x"

    scene.run(wait())


def test_a_timer_is_not_put_off_by_the_time_a_beat_takes(scene: Scene) -> None:
    async def wait() -> None:
        scene.do = lambda: time.sleep(0.5)
        scene.loop.start_beats(time.monotonic(), 600, scene.beat)
        await asyncio.sleep(0.5)  # it was to end with the beat, and not as long again after it
        assert len(scene.beats) == 1
        assert time.monotonic() - scene.beats[0] < 0.9

    scene.run(wait())


def test_a_loop_that_never_waits_beats_too(scene: Scene) -> None:
    async def spin() -> None:
        while len(scene.beats) < 5:  # noqa: ASYNC110 - it is to be busy
            await asyncio.sleep(0)

    scene.run(spin())


def test_a_beat_may_be_the_last_and_they_may_begin_again(scene: Scene) -> None:
    async def wait() -> None:
        told = asyncio.Event()

        def end() -> None:
            scene.loop.stop_beats()
            told.set()

        scene.do = scene.after(3, end)
        await told.wait()
        await asyncio.sleep(5 * BEAT_SECONDS)
        assert len(scene.beats) == 3
        scene.loop.start_beats(time.monotonic(), BEAT_SECONDS, scene.beat)
        await asyncio.sleep(0)
        assert len(scene.beats) == 4

    scene.run(wait())
