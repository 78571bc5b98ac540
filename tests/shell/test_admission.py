"""The gates on real files: what a session's command names is read, bounded, before each spawn."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from supervisor.admission import check_gates, find_gate_refusal
from supervisor.config import SessionSpec
from supervisor.errors import GateError
from supervisor.gates import Reason
from supervisor.gates.refusal import FILE_LIMIT_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.gates import Refusal


def refuse(cwd: Path, *words: str, **env: str) -> Refusal | None:
    spec = SessionSpec(name="a", command=("python", "x.py", *words), cwd=cwd, env=env)
    return find_gate_refusal(spec, {})


def test_a_file_is_found_from_the_sessions_own_directory(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "paper.toml").write_text("[live]\nenabled = true\n")
    (tmp_path / "link.toml").symlink_to("conf/paper.toml")
    whole = str(tmp_path / "conf" / "paper.toml")
    for name in ("conf/paper.toml", "./conf/../conf/paper.toml", "link.toml", whole):
        for words in ([f"--config={name}"], ["--config", name], [name], ["-c", name]):
            refusal = refuse(tmp_path, *words)
            assert refusal, words
            assert (refusal.subject, refusal.file) == ("live.enabled", name)
        assert refuse(tmp_path, CONFIG=name)
    assert refuse(tmp_path, "--config", "elsewhere/paper.toml") is None
    spec = SessionSpec(name="a", command=("x", "conf/paper.toml"), cwd=tmp_path)
    with pytest.raises(GateError, match=r"cannot start a: live\.enabled in conf/paper\.toml would"):
        check_gates(spec, {})


def test_a_paper_file_and_one_that_is_not_there_yet_start(tmp_path: Path) -> None:
    (tmp_path / "paper.toml").write_text("mode = 'paper'\nenable_live_trading = false\n")
    (tmp_path / "dir.toml").mkdir()
    assert refuse(tmp_path, "paper.toml", "dir.toml", "out.toml", "--config", "/dev/null") is None
    assert refuse(tmp_path, "x" * 5000 + ".toml") is None


@pytest.mark.timeout(10)  # a FIFO, opened to be read in whole, would hold us up for ever
@pytest.mark.parametrize("kind", ["broken", "binary", "fifo", "device", "long", "loop"])
def test_what_cannot_be_checked_does_not_start(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "paper.toml"
    match kind:
        case "broken":
            path.write_text("mode = ")
        case "binary":
            path.write_bytes(b"\xff\xfe")
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "long":
            path.write_text("#" * (FILE_LIMIT_BYTES + 1))
        case _:
            path.symlink_to(path)
    refusal = refuse(tmp_path, "--config", "paper.toml")
    assert refusal
    assert refusal.reason is Reason.UNCHECKED
    assert refusal.subject == "paper.toml"


def test_what_is_no_toml_by_name_starts_unless_it_is_toml_that_says_live(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("mode: live\n")
    (tmp_path / "a.conf").write_text("mode = 'live'\n")
    os.mkfifo(tmp_path / "fifo")
    assert refuse(tmp_path, "--config", "a.yaml") is None
    assert refuse(tmp_path, "--config", "fifo") is None
    assert refuse(tmp_path, "a.conf") is None  # any word may be the name of a file
    assert refuse(tmp_path, "--config", "a.conf")


def test_many_files_together_are_bounded_too(tmp_path: Path) -> None:
    names = []
    for number in range(40):
        names.append(f"{number}.toml")
        (tmp_path / names[-1]).write_text("mode = 'paper'\n")
    assert refuse(tmp_path, *names[:32]) is None
    assert refuse(tmp_path, *names)
    for name in names[:3]:
        (tmp_path / name).write_text("#" * (FILE_LIMIT_BYTES // 2))
    assert refuse(tmp_path, *names[:2]) is None
    assert refuse(tmp_path, *names[:3])


def test_a_projects_variable_names_a_file_wherever_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("live = true")
    spec = SessionSpec(name="a", command=("x",), cwd=tmp_path)
    assert find_gate_refusal(spec, {"PEAK_TRADE_CONFIG_PATH": "a.toml"})
    assert find_gate_refusal(spec, {"SOMEBODYS_CONFIG": "a.toml"}) is None
