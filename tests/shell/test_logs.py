"""Reading log files that somebody writes to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from supervisor.logs import Follower, open_log, read_since, read_tail

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("lines", [0, 1, 3, 10])
def test_the_tail_is_the_last_lines(tmp_path: Path, lines: int) -> None:
    log = tmp_path / "a.log"
    written = [f"line {number} {'x' * 30000}" for number in range(7)]
    log.write_text("".join(f"{line}\n" for line in written))
    assert read_tail(log, lines) == (written[-lines:] if lines else [])


def test_a_missing_log_has_no_lines(tmp_path: Path) -> None:
    assert read_tail(tmp_path / "a.log", 5) == []
    assert list(Follower(tmp_path / "a.log").read_lines()) == []


def test_a_new_log_is_private(tmp_path: Path) -> None:
    os.close(open_log(tmp_path / "a.log"))
    assert (tmp_path / "a.log").stat().st_mode & 0o777 == 0o600


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"a\.log"):
        open_log(tmp_path / "a.log")
    assert not (tmp_path / "elsewhere").exists()


def test_lines_come_whole_and_once(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    follower = Follower(path)
    with os.fdopen(open_log(path), "wb", buffering=0) as log:
        log.write(b"one\ntw")
        assert list(follower.read_lines()) == [b"one"]
        assert list(follower.read_lines()) == []
        log.write(b"o\nthree")
        assert list(follower.read_lines()) == [b"two"]
        assert list(follower.read_lines(last=True)) == [b"three"]
        assert list(follower.read_lines(last=True)) == []


def test_what_stood_there_before_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with os.fdopen(open_log(path), "wb", buffering=0) as log:
        log.write(b"old\n")
        follower = Follower(path)
        assert follower.seek_tail(0) == []
        log.write(b"new\n")
        assert list(follower.read_lines()) == [b"new"]
    follower.close()


def test_control_and_undecodable_bytes_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with os.fdopen(open_log(path), "wb", buffering=0) as log:
        log.write(b"\x1b[31mred\x07 caf\xe9\tand\xc2\x9b1m\r\n")
    assert read_tail(path, 1) == ["\\x1b[31mred\\x07 caf\ufffd\tand\\x9b1m"]


def test_what_was_written_since_an_offset_is_read_and_of_very_much_the_last(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert read_since(path, 5) == []
    path.write_text("one\ntwo\n")
    assert [read_since(path, start) for start in (-5, 4, 8)] == [["one", "two"], ["two"], []]
    assert read_since(path, 99) == ["one", "two"]  # somebody emptied it meanwhile
    path.write_text("first\n" + "x" * (1 << 20) + "\nlast\n")
    found = read_since(path, 0)
    assert found[0] != "first"
    assert found[-1] == "last"
