"""Listing real directories."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import Gauge

from telemetry.shards import Shard, list_shards, parse_shard_name

WRITER = Path(__file__).parents[1] / "children" / "metricsd_writer.py"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "prom_multiproc"
    path.mkdir()
    return path


def test_all_gauge_modes_of_the_library_are_known() -> None:
    for mode in Gauge._MULTIPROC_MODES:
        assert parse_shard_name(f"gauge_{mode}_1.db") == ("gauge", mode, 1)


def test_every_file_that_the_library_writes_is_listed(directory: Path) -> None:
    with subprocess.Popen(
        [sys.executable, WRITER, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.communicate(timeout=20)
    listed = list_shards(directory)
    assert [shard.path for shard in listed] == sorted(directory.iterdir())
    assert {(shard.kind, shard.mode, shard.pid) for shard in listed} == {
        (kind, mode, child.pid)
        for kind, mode in [
            ("counter", ""),
            ("gauge", "livemax"),
            ("gauge", "max"),
            ("histogram", ""),
            ("summary", ""),
        ]
    }


def test_shards_are_listed_by_name(directory: Path) -> None:
    names = [f"counter_{pid}.db" for pid in (9, 10, 1, 200)]
    for name in names:
        (directory / name).touch()
    assert [shard.path.name for shard in list_shards(directory)] == sorted(names)


def test_only_regular_files_are_listed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "counter_1.db").touch()
    (directory / "counter_2.db").mkdir()
    (directory / "counter_3.db").symlink_to(directory / "counter_1.db")
    os.mkfifo(directory / "counter_4.db")
    # A socket's path has to be short, and a test's directory may lie deep.
    monkeypatch.chdir(directory)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("counter_5.db")
    (directory / "notes.txt").touch()
    assert list_shards(directory) == (Shard(directory, "counter_1.db", "counter", "", 1),)


def test_without_a_directory_there_are_no_shards(tmp_path: Path) -> None:
    assert list_shards(tmp_path / "missing") == ()
    (tmp_path / "file").touch()
    assert list_shards(tmp_path / "file") == ()
