"""Periodic work: all of it on one beat, each at its own multiple, and none ends the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from supervisor.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

BEAT_SECONDS = 0.02


class Scene:
    """Rounds, and who was called at which beat; the first registered work counts the beats.

    They are on time, whatever else the machine has to do: the clock is the scene's own.
    """

    def __init__(self) -> None:
        self.rounds = Rounds(BEAT_SECONDS)
        self.beats = 0
        self.calls: list[tuple[str, int]] = []
        self.enough = asyncio.Event()
        self.rounds.every(BEAT_SECONDS, self._count)

    async def _count(self) -> None:
        self.beats += 1
        if self.beats > 6:
            self.enough.set()

    def work(self, name: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def do() -> None:
            self.calls.append((name, self.beats))

        return do

    async def run(self) -> None:
        now = 0.0
        while not self.enough.is_set():
            assert now < 100 * BEAT_SECONDS
            self.rounds.turn(now)
            now += BEAT_SECONDS
            await asyncio.sleep(0.001)  # what was begun goes as far as it can
        self.rounds.close()

    def find_beats(self, name: str) -> list[int]:
        return [beat for who, beat in self.calls if who == name]


def test_each_has_its_turn_at_once_and_then_at_its_own_beats() -> None:
    async def play() -> Scene:
        scene = Scene()
        scene.rounds.every(3 * BEAT_SECONDS, scene.work("third"))
        scene.rounds.every(BEAT_SECONDS / 10, scene.work("each"))
        await scene.run()
        return scene

    scene = asyncio.run(play())
    assert scene.find_beats("third") == [1, 4, 7]
    assert scene.find_beats("each") == [1, 2, 3, 4, 5, 6, 7]


def test_one_that_fails_has_its_next_turn_and_hinders_nobody() -> None:
    async def play() -> Scene:
        scene = Scene()
        tell = scene.work("broken")

        async def fail() -> None:
            await tell()
            raise ValueError("broken")

        scene.rounds.every(BEAT_SECONDS, fail)
        scene.rounds.every(BEAT_SECONDS, scene.work("sound"))
        await scene.run()
        return scene

    scene = asyncio.run(play())
    assert len(scene.find_beats("broken")) == len(scene.find_beats("sound")) == 7


def test_one_that_takes_long_is_not_begun_twice_and_ends_with_the_rounds() -> None:
    ended = []

    async def play() -> Scene:
        scene = Scene()
        tell = scene.work("long")

        async def last() -> None:
            await tell()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        scene.rounds.every(BEAT_SECONDS, last)
        await scene.run()
        return scene

    scene = asyncio.run(play())
    assert scene.find_beats("long") == [1]
    assert ended == [True]
