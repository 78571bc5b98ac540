"""Starting real children: what cannot be started says why; a zombie is marked before its reap."""

from __future__ import annotations

import os
import resource
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import UsageError
from supervisor.logs import open_log
from supervisor.spawn import (
    Child,
    SpawnError,
    check_command,
    keep_descriptors,
    peek,
    reap,
    signal_group,
    spawn,
)
from waiting import wait_for

ENV = {"PATH": os.environ["PATH"]}


def is_dead(child: object) -> bool:
    return peek(child) is not None  # type: ignore[arg-type] # a Child, by partial


def start(command: list[str], cwd: Path, log: Path, **given: Any) -> Child:
    """Spawn a child in a directory, with a log."""
    given.setdefault("environment", ENV)
    output = open_log(log)
    try:
        return spawn("a", 1, command, cwd=cwd, output=output, **given)
    finally:
        os.close(output)


def run(command: list[str], cwd: Path, **given: Any) -> str:
    """Spawn a child in a directory, and read what it has said when it is gone."""
    log = cwd / "a.log"
    child = start(command, cwd, log, **given)
    wait_for(partial(is_dead, child))
    assert reap(child) == 0, log.read_text()
    return log.read_text()


def write_program(path: Path, word: str, mode: int = 0o755) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {word}\n")
    path.chmod(mode)


def test_a_child_runs_in_its_own_session_with_its_output_appended(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("before\n")
    command = ["sh", "-c", "ps -o pid=,pgid=,sid= -p $$; echo problem >&2; read x || echo no input"]
    child = start(command, tmp_path, log)
    wait_for(partial(is_dead, child))
    assert reap(child) == 0
    before, ids, *rest = log.read_text().splitlines()
    assert before == "before"
    assert ids.split() == [str(child.pid)] * 3
    assert rest == ["problem", "no input"]
    assert log.stat().st_mode & 0o777 in {0o600, 0o644}  # as it was; ours are made 0600


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
        start(command, tmp_path, tmp_path / "a.log")
    assert raised.value.final


def test_a_signal_reaches_the_whole_group(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    command = ["sh", "-c", "sleep 600 & echo $!; wait"]
    child = start(command, tmp_path, log)
    worker = int(wait_for(log.read_text))
    signal_group(child, 15)
    wait_for(partial(is_dead, child))
    wait_for(lambda: not Path(f"/proc/{worker}/fd/1").exists(), what="the worker to be gone")
    assert reap(child) == -15
    signal_group(child, 15)  # nobody is left: no error


def test_no_descriptor_leaks_into_a_child(tmp_path: Path) -> None:
    left_open = os.open("/", os.O_RDONLY)
    os.set_inheritable(left_open, True)
    keep_descriptors()
    found = run(["ls", "/proc/self/fd"], tmp_path)
    os.close(left_open)
    assert found.split() == ["0", "1", "2", "3"]  # the last is ls's own


def test_a_descriptor_that_is_passed_keeps_its_number_and_goes_to_nobody_else(
    tmp_path: Path,
) -> None:
    reading, writing = os.pipe()
    try:
        run(["sh", "-c", f"echo hello >/dev/fd/{writing}"], tmp_path, pass_fds=(writing,))
        assert os.read(reading, 16) == b"hello\n"
        assert not os.get_inheritable(writing)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_child_ignores_no_signal_and_is_deaf_to_none(tmp_path: Path) -> None:
    found = run(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"], tmp_path)  # SIGPIPE: Python's
    blocked, ignored = (int(line.split()[1], 16) for line in found.splitlines())
    assert blocked == 0
    assert ignored & ~(3 << 31) == 0  # 32 and 33 are glibc's own, which posix_spawn ignores


def test_a_program_is_found_on_the_path_that_the_child_is_given(tmp_path: Path) -> None:
    write_program(tmp_path / "plain" / "prog", "plain", mode=0o644)
    write_program(tmp_path / "good" / "prog", "good")
    write_program(tmp_path / "later" / "prog", "later")
    path = f"{tmp_path}/nowhere:/etc/passwd:plain:good:{tmp_path}/later"  # from its own directory
    assert run(["prog"], tmp_path, environment={"PATH": path}) == "good\n"


def test_a_program_that_nobody_may_run_is_not_called_missing(tmp_path: Path) -> None:
    write_program(tmp_path / "plain" / "prog", "plain", mode=0o644)
    with pytest.raises(SpawnError, match="cannot start 'prog': Permission denied"):
        run(["prog"], tmp_path, environment={"PATH": "plain:/nowhere"})


def test_a_variable_without_a_name_as_a_starter_may_have_it_stops_nobody(tmp_path: Path) -> None:
    assert run(["echo", "here"], tmp_path, environment={**ENV, "": "x"}) == "here\n"


def test_the_soft_limit_of_descriptors_is_another_one_from_the_child_s_first_moment(
    tmp_path: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = "ulimit -Sn; ulimit -Hn; ulimit -Sn 70; ulimit -Sn"
    assert run(["sh", "-c", script], tmp_path, descriptors=64).split() == ["64", str(hard), "70"]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_without_a_path_there_is_that_of_the_system(tmp_path: Path) -> None:
    assert run(["echo", "here"], tmp_path, environment={}) == "here\n"


def test_a_child_runs_in_its_directory_and_we_stay_in_ours(tmp_path: Path) -> None:
    write_program(tmp_path / "prog", "from here")
    home = Path.cwd()
    assert run(["./prog"], tmp_path) == "from here\n"
    assert Path.cwd() == home
    with pytest.raises(SpawnError, match=r"cannot enter .*gone: No such file") as raised:
        start(["true"], tmp_path / "gone", tmp_path / "a.log")
    assert raised.value.final
    assert Path.cwd() == home


def test_a_directory_that_we_are_in_may_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    (tmp_path / "home").rmdir()
    assert run(["pwd"], tmp_path) == f"{tmp_path}\n"


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
