"""Every line of a followed file is given once, whatever its writers do with the file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from telemetry.ai_live.follow import (
    CHUNK_BYTES,
    LINE_LIMIT_BYTES,
    QUIET_SECONDS,
    TOO_LONG,
    Follower,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class Reader:
    """A follower with a clock of its own."""

    def __init__(self, path: Path, *, from_start: bool = True) -> None:
        self.follower = Follower(path, from_start=from_start)
        self.now = 100.0

    def read(self, *, later: float = 0.0) -> list[bytes]:
        """Read until there is nothing new."""
        self.now += later
        found: list[bytes] = []
        busy = True
        while busy:
            lines, busy = self.follower.step(self.now)
            found += lines
        return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def reader(path: Path) -> Iterator[Reader]:
    made = Reader(path)
    yield made
    made.follower.close()


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def test_what_was_there_before_is_read_and_then_what_comes(path: Path, reader: Reader) -> None:
    append(path, b"a\nb\n")
    assert reader.read() == [b"a", b"b"]
    assert reader.read() == []
    append(path, b"c\n")
    assert reader.read() == [b"c"]


def test_from_the_end_only_what_comes_is_read_and_no_half_line(path: Path) -> None:
    append(path, b"old\nhalf a li")
    reader = Reader(path, from_start=False)
    assert reader.read() == []
    append(path, b"ne\nnew\n")
    assert reader.read() == [b"new"]
    path.rename(path.with_suffix(".1"))
    append(path, b"in the next file\n")
    assert reader.read() == [b"in the next file"]
    reader.follower.close()


def test_a_file_that_comes_later_is_read_from_its_start_even_from_the_end(path: Path) -> None:
    reader = Reader(path, from_start=False)
    assert reader.read() == []
    assert reader.follower.problem == "No such file or directory"
    append(path, b"a\n")
    assert reader.read() == [b"a"]
    assert reader.follower.problem == ""
    reader.follower.close()


def test_a_line_is_one_when_its_newline_has_come(path: Path, reader: Reader) -> None:
    for part in (b"on", b"e li", b"ne"):
        append(path, part)
        assert reader.read() == []
    append(path, b"\ntwo")
    assert reader.read() == [b"one line"]


def test_rotation_loses_neither_the_old_file_s_last_lines_nor_the_new_one_s_first(
    path: Path, reader: Reader
) -> None:
    append(path, b"a\n")
    assert reader.read() == [b"a"]
    append(path, b"b\n")
    old = path.with_suffix(".1")
    path.rename(old)
    assert reader.read() == [b"b"]  # the path means nothing now
    append(path, b"c\n")
    assert reader.read() == [b"c"]
    append(old, b"late, without a newline")  # a writer that has not noticed yet
    assert reader.read(later=QUIET_SECONDS / 2) == []
    assert reader.read(later=QUIET_SECONDS) == [b"late, without a newline"]
    append(old, b"too late\n")
    append(path, b"d\n")
    assert reader.read() == [b"d"]


def test_several_rotations_while_we_are_behind_are_all_read(path: Path, reader: Reader) -> None:
    """The path is looked at once a chunk, so a backlog in one file hides no other."""
    line = b"x" * 100 + b"\n"
    many = 3 * CHUNK_BYTES // len(line)
    append(path, line * many)
    found, _ = reader.follower.step(reader.now)
    for number in range(3):
        path.rename(path.with_suffix(f".{number}"))
        append(path, line * many)
        lines, _ = reader.follower.step(reader.now)
        found += lines
    assert len(found) < 4 * many
    found += reader.read()
    assert found == [line.strip()] * (4 * many)


@pytest.mark.parametrize("name", ["events.jsonl.{}", "events.{}", "events-2026013{}.jsonl"])
def test_rotations_between_two_looks_are_all_read(path: Path, reader: Reader, name: str) -> None:
    append(path.with_name(name.format(9)), b"rotated before we came\n")
    append(path, b"0\n")
    assert reader.read() == [b"0"]
    for number in range(1, 5):
        path.rename(path.with_name(name.format(number)))
        append(path, b"%d\n" % number)
    append(path.with_name("events.jsonl.1.gz"), b"compressed\n")
    assert sorted(reader.read()) == [b"1", b"2", b"3", b"4"]
    assert reader.read(later=2 * QUIET_SECONDS) == []


def test_copy_and_truncate_counts_nothing_twice(path: Path, reader: Reader) -> None:
    append(path, b"a\n")
    assert reader.read() == [b"a"]
    shutil.copy(path, path.with_name("events.jsonl.1"))
    os.truncate(path, 0)
    append(path, b"b\n")
    assert reader.read() == [b"b"]
    path.rename(path.with_name("events.jsonl.2"))
    append(path, b"c\n")
    assert reader.read() == [b"c"]


def test_a_rotation_that_is_taken_back_counts_nothing_twice(path: Path, reader: Reader) -> None:
    append(path, b"a\n")
    assert reader.read() == [b"a"]
    path.rename(path.with_suffix(".1"))
    append(path, b"b\n")
    assert reader.read() == [b"b"]
    path.with_suffix(".1").rename(path)
    append(path, b"c\n")
    assert reader.read() == [b"c"]


def test_a_new_file_with_the_old_one_s_inode_number_is_read_from_its_start(
    path: Path, reader: Reader
) -> None:
    """A freed inode is mostly the next one given: the file is held open, so it is not freed."""
    for number in range(5):
        append(path, b"%d\n" % number)
        assert reader.read(later=2 * QUIET_SECONDS) == [b"%d" % number]
        path.unlink()


@pytest.mark.parametrize("written", [b"x\n", b"longer than what was there before\n"])
def test_a_truncated_file_is_read_from_its_start(
    path: Path, reader: Reader, written: bytes
) -> None:
    append(path, b"one\ntwo\n")
    assert reader.read() == [b"one", b"two"]
    path.write_bytes(written)
    assert reader.read() == [written.strip()]


def test_a_line_that_a_truncation_cut_off_is_given_as_it_is(path: Path, reader: Reader) -> None:
    append(path, b"one\nhal")
    assert reader.read() == [b"one"]
    path.write_bytes(b"two\n")
    assert reader.read() == [b"hal", b"two"]


def test_the_hole_that_a_writer_leaves_after_a_truncation_is_no_line(
    path: Path, reader: Reader
) -> None:
    with path.open("wb", buffering=0) as writer:  # not appending: it goes on at its own place
        writer.write(b"x" * (2 * CHUNK_BYTES) + b"\n")
        assert reader.read() == [TOO_LONG]
        os.truncate(path, 0)
        writer.write(b"after\n")
        assert reader.read() == [b"after"]


@pytest.mark.parametrize("length", [LINE_LIMIT_BYTES + 1, CHUNK_BYTES, 5 * CHUNK_BYTES])
@pytest.mark.parametrize("whole", [True, False])
def test_a_line_beyond_the_limit_is_one_bad_line(
    path: Path, reader: Reader, length: int, whole: bool
) -> None:
    line = b"x" * length + b"\n"
    append(path, b"a\n")
    if not whole:
        append(path, line[:1000])
        assert reader.read() == [b"a"]
        line = line[1000:]
    append(path, line + b"b\n")
    assert reader.read() == ([b"a"] if whole else []) + [TOO_LONG, b"b"]


def test_a_line_of_the_limit_is_whole_however_it_comes(path: Path, reader: Reader) -> None:
    line = b"y" * LINE_LIMIT_BYTES
    append(path, b"x" * (CHUNK_BYTES - 1000) + b"\n" + line + b"\n")
    assert reader.read() == [TOO_LONG, line]


def test_what_is_no_file_is_told_and_waited_for(path: Path, reader: Reader) -> None:
    os.mkfifo(path)
    assert reader.read() == []
    assert reader.follower.problem == "not a regular file"
    path.unlink()
    append(path, b"a\n")
    assert reader.read() == [b"a"]


def test_few_files_are_held_however_often_the_path_changes(path: Path, reader: Reader) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(40):
        append(path, b"%d\n" % number)
        assert reader.read() == [b"%d" % number]
        path.unlink()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 16
    append(path, b"last\n")
    reader.read(later=2 * QUIET_SECONDS)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
