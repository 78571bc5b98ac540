"""Clearing real directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemetry.clearing import Cleared, clear, find_clear_refusal, list_clearable
from telemetry.shards import RETIRED

WRITER = Path(__file__).parents[1] / "children" / "metricsd_writer.py"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "prom_multiproc"
    path.mkdir()
    return path


def test_a_link_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "prom_multiproc").symlink_to(tmp_path / "precious")
    refusal = find_clear_refusal(tmp_path / "prom_multiproc")
    assert refusal is not None
    assert "'precious'" in refusal
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "prometheus_multiproc").mkdir()
    (tmp_path / "short").symlink_to(tmp_path / "real" / "prometheus_multiproc")
    assert find_clear_refusal(tmp_path / "short") is None


def test_the_home_directory_is_refused_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    (tmp_path / "home").symlink_to(directory)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find_clear_refusal(directory) == "it is the home directory"


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prom_multiproc").touch()
    assert find_clear_refusal(tmp_path / "prom_multiproc") == "it is not a directory"


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prom_multiproc").symlink_to(tmp_path / "prom_multiproc")
    assert find_clear_refusal(tmp_path / "prom_multiproc") == "it is not a directory"


def test_clear_removes_shards_and_retired_and_nothing_else(directory: Path) -> None:
    for name in ("counter_1.db", "gauge_livemax_2.db", "notes.txt", "counter_0.db"):
        (directory / name).write_bytes(b"x")
    (directory / "archive").mkdir()
    (directory / "archive" / "counter_1.db").touch()
    claim = directory / RETIRED / "claim-1"
    claim.mkdir(parents=True)
    (claim / "counter_1.db").touch()
    (directory / RETIRED / "base").touch()
    assert clear(directory, ()) == Cleared(removed=4, kept=())
    assert sorted(path.name for path in directory.iterdir()) == [
        "archive",
        "counter_0.db",
        "notes.txt",
    ]
    assert (directory / "archive" / "counter_1.db").exists()


def test_clear_keeps_what_is_held_in_the_directory_and_in_retired(directory: Path) -> None:
    held = [directory / "counter_1.db", directory / RETIRED / "claim-1" / "counter_2.db"]
    loose = [directory / "counter_2.db", directory / RETIRED / "claim-1" / "counter_1.db"]
    held[1].parent.mkdir(parents=True)
    (directory / RETIRED / "claim-2").mkdir()
    for path in (*held, *loose):
        path.touch()
    assert clear(directory, held) == Cleared(removed=2, kept=tuple(held))
    assert [path.exists() for path in (*held, *loose)] == [True, True, False, False]
    assert not (directory / RETIRED / "claim-2").exists()


def test_a_held_path_counts_by_whatever_way_it_is_spelled(directory: Path, tmp_path: Path) -> None:
    (directory / "counter_1.db").touch()
    (tmp_path / "short").symlink_to(directory)
    held = tmp_path / "short" / "counter_1.db"
    assert clear(directory, [held]) == Cleared(removed=0, kept=(held,))
    assert clear(tmp_path / "short", [directory / "counter_1.db"]).removed == 0


def test_clear_spares_a_file_that_came_after_the_look_for_holders(directory: Path) -> None:
    (directory / "counter_1.db").touch()
    (directory / RETIRED).mkdir()
    (directory / RETIRED / "base").touch()
    seen = list_clearable(directory)
    (directory / "counter_2.db").touch()
    assert clear(directory, (), seen=seen) == Cleared(removed=2, kept=())
    assert [path.name for path in directory.iterdir()] == ["counter_2.db"]


def test_a_file_that_vanishes_before_its_removal_is_no_error(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "counter_2.db").touch()
    listed = (*(directory / name for name in ("counter_1.db", "counter_2.db")),)
    monkeypatch.setattr("telemetry.clearing.list_clearable", lambda _: listed)
    assert clear(directory, ()) == Cleared(removed=1, kept=())


def test_clear_never_follows_a_link_out_of_the_directory(directory: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "counter_1.db").touch()
    (directory / RETIRED).mkdir()
    (directory / RETIRED / "claim-1").symlink_to(outside)
    (directory / RETIRED / "counter_3.db").symlink_to(outside / "counter_1.db")
    (directory / "counter_2.db").symlink_to(outside / "counter_1.db")
    clear(directory, ())
    assert [path.name for path in outside.iterdir()] == ["counter_1.db"]
    assert [path.name for path in directory.iterdir()] == ["counter_2.db"]


def test_a_retired_that_is_a_link_goes_and_what_it_leads_to_stays(
    directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "counter_1.db").touch()
    (directory / RETIRED).symlink_to(tmp_path / "outside")
    assert clear(directory, ()) == Cleared(removed=1, kept=())
    assert list(directory.iterdir()) == []
    assert (tmp_path / "outside" / "counter_1.db").exists()


def test_a_missing_directory_is_already_clear(tmp_path: Path) -> None:
    assert clear(tmp_path / "prom_multiproc", ()) == Cleared(removed=0, kept=())


def test_clear_refuses_what_may_not_be_cleared(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").touch()
    with pytest.raises(ValueError, match=r"cannot clear .*: its name is"):
        clear(tmp_path, ())
    assert (tmp_path / "counter_1.db").exists()
