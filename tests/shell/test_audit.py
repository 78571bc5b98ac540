"""The audit alone: who notes something has it told, and what fails in it ends nothing."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from shortage import without_descriptors
from supervisor.audit import Audit, AuditSettings
from supervisor.claims import Claims
from supervisor.config.toml import find_mark
from supervisor.drift.facts import FailedClaim, Obstacle, SessionPlan, Unrotatable
from supervisor.look import directory as room
from supervisor.look.directory import DirectoryLooker
from supervisor.look.everything import ConfigFile, find_config_changes
from supervisor.look.processes import Crew, Member
from telemetry.shards import Listing, list_directory
from waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path


class Scene:
    """An audit of a directory without sessions, with a health document of our own."""

    def __init__(self, directory: Path) -> None:
        self.health: dict[str, Any] = {}
        self.changes = 0
        self.claims = Claims(directory=directory, find_own=set, note_change=lambda: None)
        self.audit = Audit(
            directory=directory,
            address="127.0.0.1:9",
            port=9,
            settings=AuditSettings(
                interval_seconds=15, missing_shard_seconds=600, stale_values_seconds=3600
            ),
            claims=self.claims,
            find_crew=Crew,
            find_planned=dict,
            find_health=lambda: self.health,
            find_outdated=tuple,
            note_change=self._note,
        )
        asyncio.run(self.audit.look())

    def _note(self) -> None:
        self.changes += 1

    @property
    def kinds(self) -> list[str]:
        return [found.kind for found in self.audit.collect()]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "prom_multiproc"
    path.mkdir()
    return path


@pytest.fixture
def scene(directory: Path) -> Scene:
    return Scene(directory)


def test_a_log_that_cannot_be_rotated_is_told_as_long_as_it_is_noted(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    assert scene.kinds == []
    full = Unrotatable("paper", "/r/paper.log", Obstacle.NO_SPACE, "no space", 1.0)
    scene.audit.unrotatable["paper"] = full
    assert scene.kinds == ["log-unrotatable"]
    assert scene.changes == 1
    del scene.audit.unrotatable["paper"]
    assert scene.kinds == []
    assert scene.changes == 2
    assert len([line for line in caplog.messages if "log-unrotatable" in line]) == 1


def test_a_claim_that_fails_and_succeeds_is_told_without_a_look(scene: Scene) -> None:
    scene.claims.failed[7] = FailedClaim("paper (pid 7)", "no space", 1.0, 15.0)
    assert scene.kinds == ["claim-failed"]
    scene.claims.failed.clear()
    assert scene.kinds == []


def test_what_metricsd_says_is_told_and_garbage_is_not(scene: Scene) -> None:
    good = {"metric": "m", "label": "symbol", "pid": 0, "shard": "", "series": 1}
    garbage: list[Any] = [None, 7, "x", [1], [{}], [{**good, "pid": "7"}], [{**good, "metric": 7}]]
    for bad in garbage:
        scene.health = {"label_violations": bad, "unreadable": bad}
        assert scene.kinds == []
    scene.health = {"label_violations": [good]}
    assert scene.kinds == ["label-violation"]


def test_a_look_spares_the_next_sweep_only_where_every_shard_is_of_a_child_of_ours(
    scene: Scene, directory: Path
) -> None:
    assert scene.claims.sweep_in_turn() is None

    def sweeps() -> bool:
        asyncio.run(scene.audit.look())
        sweep = scene.claims.sweep_in_turn()
        if sweep is not None:
            sweep.close()
        return sweep is not None

    shard = directory / f"counter_{os.getpid()}.db"
    with shard.open("w"):
        assert sweeps()  # of somebody who lives, and is no child of ours
        scene.audit.find_crew = lambda: Crew(children=frozenset({os.getpid()}))
        assert not sweeps()
    shard.unlink()
    assert not sweeps()
    directory.rmdir()
    assert sweeps()


def test_who_never_shows_a_shard_is_told_though_every_look_finds_the_same(scene: Scene) -> None:
    started = time.monotonic()
    member = Member("paper", 1, os.getpid(), "", started, adopted=False)
    crew = Crew((member,), frozenset({os.getpid()}))
    scene.audit.find_crew = lambda: crew
    scene.audit.find_planned = lambda: {"paper": SessionPlan()}
    scene.audit.settings = replace(scene.audit.settings, missing_shard_seconds=0.2)
    asyncio.run(scene.audit.look())
    assert scene.kinds == []
    wait_for(lambda: time.monotonic() >= started + 0.2)
    asyncio.run(scene.audit.look())
    assert scene.kinds == ["missing-shard"]


def test_that_nothing_can_be_opened_is_no_drift(scene: Scene, tmp_path: Path) -> None:
    settings = tmp_path / "ptsup.toml"
    settings.write_text("")
    files = (ConfigFile(settings, find_mark(b"")),)
    looker = DirectoryLooker(scene.audit.directory)
    with without_descriptors():
        with pytest.raises(OSError, match="Too many open files"):
            looker.look()
        with pytest.raises(OSError, match="Too many open files"):
            find_config_changes(files)
    assert looker.look().facts.id is not None
    assert not find_config_changes(files)


def test_an_audit_that_fails_says_so_once_and_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Crew:
        raise OSError(24, "Too many open files")

    def turn() -> None:
        work = scene.audit.turn(time.monotonic())
        if work is not None:
            asyncio.run(work)

    scene.audit.find_crew = fail
    said = "the audit failed, and tries again: [Errno 24] Too many open files"
    for _ in range(3):
        scene.audit._look_at = float("-inf")
        turn()
    assert caplog.messages == [said]
    scene.audit.find_crew = Crew
    (scene.audit.directory / "notes").touch()
    scene.audit._look_at = float("-inf")
    turn()
    assert scene.kinds == ["unexpected-file"]
    scene.audit.find_crew = fail
    scene.audit._look_at = float("-inf")
    turn()
    assert caplog.messages.count(said) == 2  # it was well meanwhile
    scene.audit.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells, and it is always due")
def test_an_audit_at_rest_is_due_when_something_changes_and_not_before(
    scene: Scene, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.watch._ASK_SECONDS", 0.3)
    audit = scene.audit

    async def wait_until_due(*, due: bool) -> None:
        async with asyncio.timeout(10):
            while audit.is_due(time.monotonic()) is not due:
                if not due and (work := audit.turn(time.monotonic())) is not None:
                    await work
                await asyncio.sleep(0.01)

    async def change_one_after_the_other() -> None:
        for change in (
            (directory / "notes").touch,
            (directory / "notes").unlink,
            audit.stir,  # as metricsd's news do
            lambda: audit.reconfigure(audit.settings, ()),
        ):
            await wait_until_due(due=False)
            change()
            await wait_until_due(due=True)
        await wait_until_due(due=False)
        assert audit.is_due(time.monotonic() + 15)
        audit.close()

    asyncio.run(change_one_after_the_other())
    assert scene.kinds == []


def test_a_shard_that_comes_while_the_directory_is_listed_is_no_stray(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def list_then_come(path: Path, former: Listing) -> Listing:
        found = list_directory(path, former)
        (directory / "counter_1.db").touch()
        return found

    monkeypatch.setattr(room, "list_directory", list_then_come)
    assert room.DirectoryLooker(directory).look().strays == ()
