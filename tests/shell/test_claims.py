"""Claims as the supervisor makes them: told when they fail, swept up when no death was seen."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import pytest

from supervisor import claims as room
from supervisor.claims import SWEEP_SECONDS, Claims, bury
from supervisor.drift.facts import FailedClaim
from supervisor.observe import count_shards
from telemetry.claim import find_unowned
from telemetry.shards import RETIRED, list_shards

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITER: Final = Path(__file__).parents[1] / "children" / "metricsd_writer.py"
# More than any kernel gives away.
DEAD: Final = 2_000_000_001
OTHER: Final = 2_000_000_002


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "prom_multiproc"
    path.mkdir()
    return path


class Scene:
    """Claims with children to be spared, which notes each change it is told."""

    def __init__(self, directory: Path) -> None:
        self.own: set[int] = set()
        self.changes = 0
        self.claims = Claims(
            directory=directory, find_own=lambda: set(self.own), note_change=self._note
        )

    def _note(self) -> None:
        self.changes += 1

    def sweep(self) -> None:
        asyncio.run(self.claims.sweep())


@pytest.fixture
def scene(directory: Path) -> Scene:
    return Scene(directory)


@pytest.fixture
def writer(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, WRITER, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def write(directory: Path, pid: int) -> None:
    (directory / f"counter_{pid}.db").touch()


def flat(directory: Path) -> set[int]:
    return {shard.pid for shard in list_shards(directory)}


def block(directory: Path) -> Path:
    """Let no claim be made here; give back what is in the way."""
    obstacle = directory / RETIRED
    obstacle.touch()
    return obstacle


def test_a_sweep_is_left_out_only_when_somebody_has_just_seen_nothing_for_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begins() -> bool:
        sweep = scene.claims.sweep_in_turn()
        if sweep is not None:
            sweep.close()
        return sweep is not None

    assert begins()
    scene.claims.note_look(clean=True)
    assert not begins()
    scene.claims.failed[DEAD] = FailedClaim("paper", "no space", 0.0, SWEEP_SECONDS)
    assert begins()
    scene.claims.failed.clear()
    scene.claims.note_look(clean=False)
    assert begins()
    scene.claims.note_look(clean=True)
    later = time.monotonic() + SWEEP_SECONDS
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: later))
    assert begins()


def test_a_sweep_claims_the_dead_and_nobody_else(
    directory: Path,
    scene: Scene,
    writer: subprocess.Popen[bytes],
) -> None:
    write(directory, DEAD)
    write(directory, OTHER)
    scene.own = {OTHER}  # a zombie of ours: its own death claims it
    scene.sweep()
    assert flat(directory) == {OTHER, writer.pid}
    (orphan,) = scene.claims.orphans
    assert (orphan.pid, orphan.shards) == (DEAD, (f"counter_{DEAD}.db",))
    scene.sweep()
    assert flat(directory) == {OTHER, writer.pid}


def test_a_pid_that_was_given_to_a_child_of_ours_meanwhile_is_spared(
    directory: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(directory, DEAD)

    def find_and_spawn(path: Path, living: set[int]) -> set[int]:
        found = find_unowned(path, living)
        scene.own = {DEAD}
        return found

    monkeypatch.setattr(room, "find_unowned", find_and_spawn)
    scene.sweep()
    assert flat(directory) == {DEAD}


def test_a_sweep_completes_what_a_crash_left_open(directory: Path, scene: Scene) -> None:
    opened = directory / RETIRED / "open-1"
    opened.mkdir(parents=True)
    write(opened, DEAD)
    scene.sweep()
    assert [path.name for path in (directory / RETIRED).iterdir()] == ["claim-1"]


def test_a_claim_that_fails_is_told_once_and_forgotten_when_it_is_done(
    directory: Path, scene: Scene
) -> None:
    obstacle = block(directory)
    write(directory, DEAD)
    for _ in range(3):
        reason = scene.claims.claim("paper", DEAD)
        assert reason is not None
        assert "not a directory" in reason
    (failed,) = scene.claims.failed.values()
    assert (failed.subject, failed.reason) == (f"paper (pid {DEAD})", reason)
    assert scene.changes == 1
    obstacle.unlink()
    scene.sweep()  # the pid was reaped long since; nobody else would do it
    assert scene.claims.failed == {}
    assert scene.changes == 2
    assert flat(directory) == set()


def test_a_finding_ends_with_the_shards_it_is_about(directory: Path, scene: Scene) -> None:
    block(directory)
    write(directory, DEAD)
    scene.claims.claim("paper", DEAD)
    (directory / f"counter_{DEAD}.db").unlink()
    scene.sweep()
    assert scene.claims.failed == {}


def test_a_finding_of_a_zombie_of_ours_stays_while_its_claim_is_tried(
    directory: Path, scene: Scene
) -> None:
    block(directory)
    write(directory, DEAD)
    scene.own = {DEAD}
    scene.claims.claim("paper", DEAD)
    scene.sweep()
    assert set(scene.claims.failed) == {DEAD}


def test_one_pid_that_cannot_be_claimed_holds_up_no_other(
    directory: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(directory, DEAD)
    write(directory, OTHER)
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if str(DEAD) in str(source):
            raise OSError(28, "No space left on device", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    scene.sweep()
    assert flat(directory) == {DEAD}
    assert set(scene.claims.failed) == {DEAD}
    monkeypatch.undo()
    scene.sweep()
    assert flat(directory) == set()
    assert scene.claims.failed == {}


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("no thread")])
def test_a_sweep_that_fails_is_told_and_the_next_one_does_it(
    directory: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write(directory, DEAD)

    def fail(*_: object) -> set[int]:
        raise error

    monkeypatch.setattr(room, "find_unowned", fail)
    scene.sweep()
    (failed,) = scene.claims.failed.values()
    assert failed.subject == "the sweep"
    monkeypatch.undo()
    scene.sweep()
    assert scene.claims.failed == {}
    assert flat(directory) == set()


@pytest.mark.parametrize(("failed", "times"), [(False, 0), (False, 1), (True, 2)])
def test_a_sweep_that_cannot_list_our_children_ends_nothing(
    directory: Path, scene: Scene, *, failed: bool, times: int
) -> None:
    write(directory, DEAD)
    answers = iter([set[int]()] * times)

    def find_own() -> set[int]:
        try:
            return next(answers)
        except StopIteration:
            raise OSError(24, "Too many open files") from None

    if failed:  # with a claim to be forgotten it asks once more
        scene.claims.failed[OTHER] = FailedClaim("an orphan", "mended", 0.0, 30.0)
    scene.claims.find_own = find_own
    scene.sweep()
    assert [found.reason for found in scene.claims.failed.values()] == ["Too many open files"]
    assert flat(directory) == {DEAD}


def test_a_broken_library_is_a_failed_claim_and_no_more(
    directory: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(room, "claim", fail)
    assert "broken" in (scene.claims.claim("paper", DEAD) or "")


def test_burying_completes_and_claims_what_a_crash_left(
    directory: Path, writer: subprocess.Popen[bytes]
) -> None:
    opened = directory / RETIRED / "open-3"
    opened.mkdir(parents=True)
    write(opened, DEAD)
    write(directory, OTHER)
    bury(directory)
    claims = sorted(path.name for path in (directory / RETIRED).iterdir())
    assert claims == ["claim-1", "claim-2"]
    assert flat(directory) == {writer.pid}


def test_burying_where_nothing_can_be_claimed_stops_no_start(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    block(directory)
    write(directory, DEAD)
    bury(directory)
    assert "cannot claim" in caplog.text
    assert flat(directory) == {DEAD}


def test_the_counts_tell_the_living_from_the_dead(
    directory: Path, writer: subprocess.Popen[bytes], scene: Scene
) -> None:
    def count() -> tuple[int, int]:
        facts = count_shards(directory)
        return facts.live, facts.retired

    assert count() == (5, 0)
    assert count_shards(directory).by_pid == {writer.pid: 5}
    write(directory, DEAD)
    assert count() == (5, 1)
    scene.sweep()
    assert flat(directory) == {writer.pid}
    assert count() == (5, 1)  # claimed, and not folded yet
    before = count_shards(directory).bytes
    (directory / RETIRED / "base").write_text('{"claim": 1}\n')
    assert count() == (5, 0)
    assert count_shards(directory).bytes == before + 13
    writer.kill()
    writer.wait()
    assert count() == (0, 5)
    assert count_shards(directory / "missing").live == 0


def test_a_retired_that_is_no_directory_is_no_error_to_count(directory: Path) -> None:
    block(directory)
    write(directory, DEAD)
    assert count_shards(directory).retired == 1
