"""What keeps a log from being rotated is told by its cause, and no more once that is mended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from supervisor import rotator
from supervisor.config import LogLimits
from supervisor.copies import list_copies
from supervisor.drift.facts import Obstacle, Unrotatable
from supervisor.rotation import rotate

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

LIMITS: Final = LogLimits(max_bytes=100_000, backups=3)
LONG: Final = 1_500 * (b"x" * 99 + b"\n")


@pytest.fixture(autouse=True)
def _tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotator, "_RETRY_SECONDS", 0.1)


@dataclass
class Bench:
    """The logs of `a`, who lives, and a rotator that keeps them short."""

    directory: Path
    limits: dict[str, LogLimits] = field(default_factory=lambda: {"a": LIMITS})
    living: set[str] = field(default_factory=lambda: {"a"})
    failed: dict[str, Unrotatable] = field(default_factory=dict)
    find_logs: Callable[[], dict[str, LogLimits]] | None = None
    told: dict[str, Unrotatable] = field(default_factory=dict)  # what failed when that was told

    def note_change(self) -> None:
        self.told = dict(self.failed)

    @property
    def log(self) -> Path:
        return self.directory / "a.log"

    def rotate_during(self, story: Coroutine[None, None, None]) -> None:
        async def run() -> None:
            rotating = asyncio.create_task(
                rotator.Rotator(
                    directory=self.directory,
                    find_logs=self.find_logs or (lambda: dict(self.limits)),
                    find_writing=lambda: self.living,
                    failed=self.failed,
                    note_change=self.note_change,
                ).run()
            )
            try:
                await story
                assert not rotating.done()
                assert self.told == self.failed
            finally:
                rotating.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await rotating

        asyncio.run(run())

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, self.failed
            await asyncio.sleep(0.01)

    async def wait_for_failure(self, name: str, obstacle: Obstacle) -> str:
        await self.wait_for(lambda: name in self.failed)
        assert self.failed[name].obstacle is obstacle
        return self.failed[name].reason


@pytest.mark.parametrize("then", ["is made anew", "session ends", "session is forgotten"])
def test_a_removed_log_is_told_until_nothing_is_lost_any_more(tmp_path: Path, then: str) -> None:
    bench = Bench(tmp_path)
    bench.log.write_bytes(LONG)

    async def story() -> None:
        await bench.wait_for(lambda: bool(list_copies(bench.log)))
        bench.log.unlink()
        assert "removed" in await bench.wait_for_failure("a", Obstacle.REMOVED)
        if then == "is made anew":
            bench.log.write_bytes(b"new\n")
        elif then == "session ends":
            bench.living.clear()
        else:
            bench.limits.clear()
        (tmp_path / "supervisor.log").write_bytes(b"so it was\n")  # as a supervisor says it
        await bench.wait_for(lambda: not bench.failed)

    bench.rotate_during(story())


@pytest.mark.parametrize(("left", "name"), [(0, "logs"), (32 << 10, "a")])
def test_a_full_disk_is_told_until_there_is_room(
    mount: Callable[..., Path], left: int, name: str
) -> None:
    bench = Bench(mount("tmpfs", "-o", "size=600k"))
    bench.log.write_bytes(LONG)
    hog = bench.directory / "hog"
    hog.write_bytes(bytes(shutil.disk_usage(bench.directory).free - left))

    async def story() -> None:
        assert "No space" in await bench.wait_for_failure(name, Obstacle.NO_SPACE)
        hog.unlink()
        await bench.wait_for(lambda: not bench.failed and bool(list_copies(bench.log)))

    bench.rotate_during(story())


def test_a_file_system_without_holes_is_told_for_the_directory(mount: Callable[..., Path]) -> None:
    bench = Bench(mount("ramfs"))
    bench.log.write_bytes(LONG)

    async def story() -> None:
        assert "no holes" in await bench.wait_for_failure("logs", Obstacle.NO_HOLES)

    bench.rotate_during(story())
    assert bench.log.read_bytes() == LONG


def test_a_log_that_is_no_file_of_ours_is_told_with_what_the_system_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (tmp_path / "other").write_bytes(LONG)
    bench.log.symlink_to("other")

    async def story() -> None:
        assert "symbolic links" in await bench.wait_for_failure("a", Obstacle.OTHER)

    bench.rotate_during(story())


@pytest.mark.parametrize("begun", [False, True], ids=["found too long", "found begun"])
def test_a_session_forgotten_while_its_log_is_rotated_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, begun: bool
) -> None:
    bench = Bench(tmp_path)
    bench.log.write_bytes(LONG)
    if begun:
        rotate(bench.log, LIMITS)
        with bench.log.open("ab") as log:
            log.write(LONG)
    before = len(list_copies(bench.log))
    answered = 0

    def find_logs() -> dict[str, LogLimits]:
        # As when a reload comes while the thread is at work: there at one look, gone at the next.
        nonlocal answered
        answered += 1
        return {"a": LIMITS} if answered <= (1 if begun else 2) else {}

    bench.find_logs = find_logs

    async def story() -> None:
        await bench.wait_for(lambda: answered > 2 and len(list_copies(bench.log)) > before)

    bench.rotate_during(story())
    assert not caplog.records
    assert not bench.failed


def test_a_rotator_that_fails_says_so_once_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path)
    bench.log.write_bytes(LONG)
    looks = itertools.count()

    def find_logs() -> dict[str, LogLimits]:
        if next(looks) < 3:
            raise RuntimeError("can't start new thread")
        return {"a": LIMITS}

    bench.find_logs = find_logs

    async def story() -> None:
        await bench.wait_for(lambda: bool(list_copies(bench.log)))

    bench.rotate_during(story())
    said = "the rotation of logs failed, and is tried again: can't start new thread"
    assert caplog.messages == [said]


def test_a_rotator_that_fails_again_says_so_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path)
    looks = itertools.count()

    def find_logs() -> dict[str, LogLimits]:
        if next(looks) % 3 == 0:  # well in between
            raise OSError(24, "Too many open files")
        return {"a": LIMITS}

    bench.find_logs = find_logs
    bench.log.write_bytes(b"x\n")

    async def story() -> None:
        await bench.wait_for(lambda: len(caplog.messages) > 1)

    bench.rotate_during(story())
