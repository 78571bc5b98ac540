"""Marking real, killed processes dead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.claim import mark_dead
from telemetry.shards import list_shards

WRITER = Path(__file__).parents[1] / "children" / "metricsd_writer.py"


def write_and_die(directory: Path) -> int:
    """Write one shard of every kind and be killed; returns the pid."""
    with subprocess.Popen(
        [sys.executable, WRITER, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    return process.pid


# Brackets are a pattern to glob, with which the library looks for its files.
@pytest.mark.parametrize("name", ["prom_multiproc", "run[1]*"])
def test_only_the_live_gauges_of_the_dead_pid_go(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    dead, other = write_and_die(directory), write_and_die(directory)
    before = {shard.path.name for shard in list_shards(directory)}
    mark_dead(directory, dead)
    after = {shard.path.name for shard in list_shards(directory)}
    assert before - after == {f"gauge_livemax_{dead}.db"}
    assert f"gauge_livemax_{other}.db" in after


def test_a_pid_without_shards_and_a_missing_directory_are_no_errors(tmp_path: Path) -> None:
    mark_dead(tmp_path, 4711)
    mark_dead(tmp_path / "missing", 4711)


def test_without_the_library_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = tmp_path / "gauge_livemax_4711.db"
    shard.touch()
    monkeypatch.setitem(sys.modules, "prometheus_client.multiprocess", None)
    mark_dead(tmp_path, 4711)
    assert shard.exists()
