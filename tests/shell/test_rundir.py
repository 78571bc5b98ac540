"""The run directory: one lock, whole state files, a socket path that fits."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from supervisor.errors import PtsupError, UsageError
from supervisor.rundir import RunDir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[RunDir]:
    made = RunDir(tmp_path / ".ops_local" / "ptsup")
    made.create()
    assert made.lock()
    yield made
    made.unlock()


def test_it_is_private_and_git_ignores_it(run_dir: RunDir) -> None:
    for directory in (run_dir.path, run_dir.logs, run_dir.states):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert (run_dir.path.parent / ".gitignore").read_text() == "*\n"


def test_a_directory_of_another_name_gets_no_gitignore(tmp_path: Path) -> None:
    RunDir(tmp_path / "plain" / "run").create()
    assert not (tmp_path / "plain" / ".gitignore").exists()


def test_the_lock_is_held_by_one_and_dies_with_its_process(run_dir: RunDir) -> None:
    code = (
        "import sys; from pathlib import Path; from supervisor.rundir import RunDir;"
        "print(RunDir(Path(sys.argv[1])).lock(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(run_dir.path)]
    run_dir.unlock()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        assert not RunDir(run_dir.path).lock()
        holder.kill()
        holder.wait()
    assert run_dir.lock()
    run_dir.unlock()


def test_the_journal_is_read_back_and_half_a_line_counts_as_nothing(run_dir: RunDir) -> None:
    run_dir.append_journal([{"name": "paper", "pid": 6, "nonce": "n"}, {"name": "other"}])
    with run_dir.journal.open("a") as journal:
        journal.write('\n{"name": "paper", "pid": 9')  # a crash, or a full disk
        journal.write('\n[{"name": "paper", "pid": 8}, {"name": "other", "pid": 8}')
        journal.write('\n{"name": "paper", "state": "running"}')  # as a former ptsup wrote it
    run_dir.append_journal([{"name": "paper", "pid": 7}])
    run_dir.append_journal([{"name": "other", "forgotten": True}])
    paper = {"name": "paper", "pid": 7, "nonce": "n", "state": "running"}
    assert run_dir.read_states() == {"paper": paper}
    assert stat.S_IMODE(run_dir.journal.stat().st_mode) == 0o600


def test_a_journal_that_has_grown_is_written_anew_as_short_as_it_can_be(run_dir: RunDir) -> None:
    run_dir.append_journal([{"name": "first", "number": 1}, {"name": "paper", "number": 2}])
    most = 0
    for pid in range(1, 1001):
        run_dir.append_journal([{"name": "paper", "pid": pid, "nonce": "n" * 10_000}])
        most = max(most, run_dir.journal.stat().st_size)
    assert most < 1.2 * 2**22
    states = run_dir.read_states()
    assert list(states) == ["first", "paper"]
    assert states["paper"]["pid"] == 1000


def test_clean_leaves_the_logs_and_nothing_else(run_dir: RunDir) -> None:
    run_dir.append_journal([{"name": "paper"}])
    run_dir.write_own({"pid": 7})
    (run_dir.states / ".supervisor.tmp").write_text("half")
    run_dir.socket.write_text("")
    run_dir.log("paper").write_text("a line\n")
    run_dir.clean()
    left = sorted(p.relative_to(run_dir.path).as_posix() for p in run_dir.path.rglob("*"))
    assert left == ["logs", "logs/paper.log"]


def test_a_path_too_long_for_a_socket_moves_to_a_short_private_directory(tmp_path: Path) -> None:
    long = RunDir(tmp_path / ("x" * 120))
    long.create()
    assert len(os.fsencode(long.socket)) <= 103
    assert long.socket.parent.name == f"ptsup-{os.getuid()}"
    assert long.lock()
    long.create_socket_directory()
    assert stat.S_IMODE(long.socket.parent.stat().st_mode) == 0o700
    assert RunDir(tmp_path / ("x" * 121)).socket != long.socket
    long.clean()


def test_a_short_directory_that_is_a_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setattr("supervisor.rundir._short_directory", lambda: tmp_path / "link")
    long = RunDir(tmp_path / ("x" * 120))
    with pytest.raises(PtsupError, match="not a private directory of ours"):
        long.create_socket_directory()


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot use the run directory"):
        RunDir(tmp_path / "file").create()


def test_a_field_of_another_type_counts_as_not_there(run_dir: RunDir) -> None:
    hostile = {"pid": "7", "incarnation": [], "command": [1], "multiproc_dir": ".", "state": {}}
    run_dir.append_journal([{**hostile, "name": "paper", "host": "0.0.0.0"}])
    assert run_dir.read_states() == {"paper": {"name": "paper", "host": "0.0.0.0"}}


def test_a_directory_that_took_our_place_is_left_alone(run_dir: RunDir, tmp_path: Path) -> None:
    run_dir.path.rename(tmp_path / "moved")
    other = RunDir(run_dir.path)
    other.create()
    assert other.lock()
    other.write_own({"pid": 8})
    run_dir.clean()
    assert other.read_states() == {"supervisor": {"pid": 8}}
    with pytest.raises(FileNotFoundError):
        run_dir.append_journal([{"name": "ours"}])


def test_a_directory_where_a_state_should_be_is_named(run_dir: RunDir) -> None:
    (run_dir.states / "supervisor.json").mkdir()
    with pytest.raises(PtsupError, match=r"supervisor\.json"):
        run_dir.clean()


def test_the_page_part_is_private_replaced_whole_and_cleaned_away(run_dir: RunDir) -> None:
    run_dir.write_metrics("one\n" * 1000)
    with run_dir.metrics.open() as reader:
        run_dir.write_metrics("two\n")
        assert reader.read() == "one\n" * 1000  # whoever reads has a whole one
    assert run_dir.metrics.read_text() == "two\n"
    assert stat.S_IMODE(run_dir.metrics.stat().st_mode) == 0o600
    (run_dir.path / ".metrics.tmp").write_text("torn")
    run_dir.create()  # neither is a stranger's
    run_dir.clean()
    assert sorted(path.name for path in run_dir.path.iterdir()) == ["logs"]


def test_no_page_part_is_written_into_another_directory(run_dir: RunDir) -> None:
    run_dir.path.rename(run_dir.path.with_name("moved"))
    run_dir.path.mkdir()
    with pytest.raises(FileNotFoundError, match="was removed"):
        run_dir.write_metrics("two\n")
    assert list(run_dir.path.iterdir()) == []


def test_each_socket_moves_to_the_short_directory_for_its_own_length_alone(tmp_path: Path) -> None:
    room = 103 - len(os.fsencode(tmp_path)) - len("//control.sock")
    run_dir = RunDir(tmp_path / ("x" * room))
    assert run_dir.socket == run_dir.path / "control.sock"
    assert run_dir.handback.parent.name == f"ptsup-{os.getuid()}"
    run_dir.create_socket_directory()
    assert run_dir.handback.parent.is_dir()


def test_clean_removes_locks_and_sockets_and_a_start_takes_them_for_ours(run_dir: RunDir) -> None:
    (run_dir.states / "0123456789abcdef.lock").touch()  # as it is where there are files for them
    run_dir.handback.touch()
    run_dir.create()
    run_dir.clean()
    assert sorted(path.name for path in run_dir.path.rglob("*")) == ["logs"]
