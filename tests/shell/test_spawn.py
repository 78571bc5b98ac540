"""Starting real children: what cannot be started says why; a zombie is marked before its reap."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from supervisor.errors import UsageError
from supervisor.spawn import SpawnError, check_command, peek, reap, signal_group, spawn
from waiting import wait_for

ENV = {"PATH": os.environ["PATH"]}


def is_dead(child: object) -> bool:
    return peek(child) is not None  # type: ignore[arg-type] # a Child, by partial


def test_a_child_runs_in_its_own_session_with_its_output_appended(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("before\n")
    command = ["sh", "-c", "ps -o pid=,pgid=,sid= -p $$; echo problem >&2; read x || echo no input"]
    child = spawn("a", 1, command, environment=ENV, cwd=tmp_path, log=log)
    wait_for(partial(is_dead, child))
    assert reap(child) == 0
    before, ids, *rest = log.read_text().splitlines()
    assert before == "before"
    assert ids.split() == [str(child.pid)] * 3
    assert rest == ["problem", "no input"]
    assert log.stat().st_mode & 0o777 in {0o600, 0o644}  # as it was; ours are made 0600


def test_a_new_log_is_private(tmp_path: Path) -> None:
    child = spawn("a", 1, ["true"], environment=ENV, cwd=tmp_path, log=tmp_path / "a.log")
    wait_for(partial(is_dead, child))
    reap(child)
    assert (tmp_path / "a.log").stat().st_mode & 0o777 == 0o600


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpawnError):
        spawn("a", 1, ["true"], environment=ENV, cwd=tmp_path, log=tmp_path / "a.log")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["no-such-program"], "No such file"),
        (["/etc/passwd"], "Permission denied"),
        (["./not-a-program"], "Exec format error"),
        (["nul\0"], "null byte"),
    ],
)
def test_what_cannot_be_started_is_final_and_says_why(
    tmp_path: Path, command: list[str], words: str
) -> None:
    (tmp_path / "not-a-program").write_text("neither ELF nor a script")
    (tmp_path / "not-a-program").chmod(0o755)
    with pytest.raises(SpawnError, match=words) as raised:
        spawn("a", 1, command, environment=ENV, cwd=tmp_path, log=tmp_path / "a.log")
    assert raised.value.final


def test_a_signal_reaches_the_whole_group(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    command = ["sh", "-c", "sleep 600 & echo $!; wait"]
    child = spawn("a", 1, command, environment=ENV, cwd=tmp_path, log=log)
    worker = int(wait_for(log.read_text))
    signal_group(child, 15)
    wait_for(partial(is_dead, child))
    wait_for(lambda: not Path(f"/proc/{worker}/fd/1").exists(), what="the worker to be gone")
    assert reap(child) == -15
    signal_group(child, 15)  # nobody is left: no error


def test_no_descriptor_leaks_into_a_child(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    child = spawn("a", 1, ["ls", "/proc/self/fd"], environment=ENV, cwd=tmp_path, log=log)
    wait_for(partial(is_dead, child))
    reap(child)
    assert log.read_text().split() == ["0", "1", "2", "3"]  # the last is ls's own


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("no-such-program", "no such program"),
        ("./missing", "no such program"),
        ("./plain", "not an executable"),
        ("/tmp", "not an executable"),
    ],
)
def test_a_command_is_checked_before_anything_starts(
    tmp_path: Path, program: str, words: str
) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(UsageError, match=words):
        check_command([program], tmp_path, ENV)


def test_a_missing_working_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone"):
        check_command(["true"], tmp_path / "gone", ENV)
