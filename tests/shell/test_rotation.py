"""Rotating real files: no byte is lost or doubled, wherever it is crashed, and whoever meddles."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import pytest

from supervisor import kernel
from supervisor.config import LogLimits
from supervisor.copies import find_front, list_copies, list_shelves
from supervisor.logs import Follower, open_log, read_tail
from supervisor.rotation import find_refusal, rotate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIMITS: Final = LogLimits(max_bytes=100_000, backups=1000)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "a.log"


def build_lines(first: int, last: int) -> bytes:
    return b"".join(b"line %d %s\n" % (n, b"x" * (n * 7 % 90)) for n in range(first, last))


def write(log: Path, data: bytes) -> None:
    with os.fdopen(open_log(log), "wb", buffering=0) as file:
        file.write(data)


def rotate_all(log: Path, limits: LogLimits = LIMITS) -> None:
    """Rotate as the supervisor does."""
    while log.stat().st_size - rotate(log, limits) > limits.max_bytes:
        pass


def read_all(log: Path) -> bytes:
    """Read what a person finds: the copies in order, then what is no hole of the log."""
    copies = list_copies(log)
    parts = [copy.path.read_bytes() for copy in copies]
    with log.open("rb") as file:
        file.seek(find_front(file.fileno(), copies).first)
        parts.append(file.read())
    return b"".join(parts)


def find_allocated(log: Path) -> int:
    return log.stat().st_blocks * 512


# -- A rotation --------------------------------------------------------------------------------


def test_what_is_too_long_goes_into_copies_of_whole_lines(log: Path) -> None:
    data = build_lines(0, 10_000)
    write(log, data)
    rotate_all(log)
    copies = list_copies(log)
    assert len(copies) >= 4
    assert [copy.start for copy in copies] == [0, *(copy.end for copy in copies[:-1])]
    for copy in copies:
        assert copy.path.name == f"a.log.{copy.start}"
        text = copy.path.read_bytes()
        assert text.startswith(b"line ")
        assert text.endswith(b"\n")
        assert len(text) <= LIMITS.max_bytes
        assert copy.path.stat().st_mode & 0o777 == 0o600
    assert read_all(log) == data
    assert log.stat().st_size == len(data)
    assert find_allocated(log) <= LIMITS.max_bytes + 8192
    assert not list_shelves(log.parent)["a.log"].unfinished


def test_a_log_within_its_limit_is_left_alone(log: Path) -> None:
    write(log, b"x" * LIMITS.max_bytes)
    assert rotate(log, LIMITS) == 0
    assert not list_copies(log)


def test_without_a_limit_nothing_is_rotated(log: Path) -> None:
    write(log, build_lines(0, 10_000))
    assert rotate(log, LogLimits(max_bytes=0)) == 0
    assert not list_copies(log)


def test_the_oldest_copies_go_and_those_of_others_stay(log: Path) -> None:
    others = [log.with_name(name) for name in ("b.log.0", "a.log.x", "a.log.0.gz", "xa.log.1")]
    for other in others:
        other.write_text("keep")
    write(log, build_lines(0, 20_000))
    rotate_all(log, LogLimits(max_bytes=100_000, backups=2))
    copies = list_copies(log)
    assert len(copies) == 2
    assert all(other.read_text() == "keep" for other in others)
    assert read_all(log) == build_lines(0, 20_000)[copies[0].start :]


def test_with_no_copies_wanted_the_oldest_lines_go(log: Path) -> None:
    data = build_lines(0, 10_000)
    write(log, data)
    rotate_all(log, LogLimits(max_bytes=100_000, backups=0))
    assert not list_copies(log)
    rest = read_all(log)
    assert data.endswith(rest)
    assert rest.startswith(b"line ")
    assert len(rest) <= 100_000


def test_a_line_longer_than_a_log_may_be_is_cut_and_whole_again_when_read(log: Path) -> None:
    data = b"begin\n" + b"y" * 450_000 + b"\nend\n"
    write(log, data)
    rotate_all(log)
    assert read_all(log) == data
    assert find_allocated(log) <= LIMITS.max_bytes + 8192


def test_zeros_that_a_session_wrote_stay(log: Path) -> None:
    data = b"".join(b"\0\0%d\0\n" % n for n in range(60_000))
    for _ in range(3):
        write(log, data)
        rotate_all(log)
    assert read_all(log) == data * 3
    follower = Follower(log)
    assert b"\n".join(follower.seek_tail(70_000)) == b"\n".join((data * 3).split(b"\n")[-70_001:-1])


def test_rotation_goes_on_while_lines_of_any_size_are_written(log: Path) -> None:
    chance = random.Random(7)
    data = bytearray()
    for number in range(400):
        part = b"%d %s\n" % (number, chance.randbytes(chance.randrange(6000)).replace(b"\n", b"\0"))
        cut = chance.randrange(len(part))
        for half in (part[:cut], part[cut:]):
            write(log, half)
            rotate(log, LogLimits(max_bytes=65536, backups=1000))
        data += part
    assert read_all(log) == bytes(data)


# -- Crashes -------------------------------------------------------------------------------------


class Crash(BaseException):
    """Ends everything at once, as KILL does; nothing may catch it."""


# Whatever changes something on the disk.
CHANGING: Final = [
    *[(os, name) for name in ("open", "write", "copy_file_range", "fsync", "link", "unlink")],
    *[(os, name) for name in ("rename", "close")],
    (kernel, "punch_hole"),
]


def crash_before(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Crash before the numbered change, and whatever tidies up afterwards never runs."""
    numbers = count()

    def guard(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **options)
            if name == "close":  # the kernel does it for the dead
                return real(*arguments, **options)
            if next(numbers) >= number:
                raise Crash
            return real(*arguments, **options)

        return call

    for owner, name in CHANGING:
        monkeypatch.setattr(owner, name, guard(getattr(owner, name), name))


@pytest.mark.parametrize("meanwhile", [b"", b"written while nobody looked\n" * 9000])
def test_a_rotation_crashed_anywhere_and_repeated_loses_and_doubles_nothing(
    tmp_path: Path, meanwhile: bytes
) -> None:
    data = build_lines(0, 7_000)
    crashes = 0
    for number in count():
        log = tmp_path / str(number) / "a.log"
        write(log, data)
        with pytest.MonkeyPatch.context() as monkeypatch:
            crash_before(monkeypatch, number)
            try:
                rotate_all(log)
            except Crash:
                crashes += 1
            else:
                break
        assert len(b"".join(c.path.read_bytes() for c in list_copies(log))) <= len(data)
        assert read_tail(log, 3000) == data.decode().splitlines()[-3000:]
        write(log, meanwhile)
        rotate_all(log)
        assert read_all(log) == data + meanwhile, number
        shelf = list_shelves(log.parent)["a.log"]
        assert [*shelf.unfinished, *shelf.aside] == [], number
        assert find_allocated(log) <= LIMITS.max_bytes + 8192
        shutil.rmtree(log.parent)
    assert crashes > 12


def test_a_crash_between_name_and_hole_and_then_an_emptied_log_costs_no_new_line(
    log: Path,
) -> None:
    write(log, build_lines(0, 3_000))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(kernel, "punch_hole", crash)
        with pytest.raises(Crash):
            rotate(log, LIMITS)
    os.truncate(log, 0)
    write(log, new := build_lines(50_000, 53_000))
    rotate_all(log)
    assert read_all(log) == new
    assert len(list_shelves(log.parent)["a.log"].aside) == 1


def crash(*_: object) -> None:
    raise Crash


# -- What others do to it --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_a_log_somebody_emptied_or_removed_overwrites_no_former_copy(log: Path, how: str) -> None:
    old = build_lines(0, 4_000)
    write(log, old)
    rotate_all(log)
    before = [copy.path.read_bytes() for copy in list_copies(log)]
    if how == "emptied":
        os.truncate(log, 0)
    else:
        log.unlink()
    write(log, old)  # the very same lines again
    rotate_all(log)
    assert read_all(log) == old
    aside = list_shelves(log.parent)["a.log"].aside
    assert [path.read_bytes() for _, path in aside] == before
    write(log, build_lines(4_000, 9_000))
    rotate_all(log, LogLimits(max_bytes=100_000, backups=1))
    shelf = list_shelves(log.parent)["a.log"]
    assert not shelf.aside
    assert len(shelf.copies) == 1


def test_copies_that_were_moved_away_are_not_missed(log: Path) -> None:
    write(log, build_lines(0, 5_000))
    rotate_all(log)
    moved = b"".join(copy.path.read_bytes() for copy in list_copies(log))
    for copy in list_copies(log):
        copy.path.unlink()
    write(log, build_lines(5_000, 9_000))
    rotate_all(log)
    assert moved + read_all(log) == build_lines(0, 9_000)


def test_who_writes_into_the_hole_is_copied_too(log: Path) -> None:
    write(log, build_lines(0, 5_000))
    rotate_all(log)
    with log.open("r+b") as file:  # as a shell's `> /dev/stdout` may do
        file.write(b"not at the end\n")
    write(log, build_lines(5_000, 9_000))
    rotate_all(log)
    names = sorted(log.parent.iterdir())
    text = b"".join(path.read_bytes() for path in names)
    assert text.count(b"not at the end\n") == 1
    assert Counter(re.findall(rb"line (\d+) ", text)) == Counter(b"%d" % n for n in range(9_000))


def test_a_directory_in_the_way_of_a_copy_stops_the_rotation_and_loses_nothing(log: Path) -> None:
    data = build_lines(0, 3_000)
    write(log, data)
    log.with_name("a.log.0").mkdir()
    with pytest.raises(FileExistsError):
        rotate(log, LIMITS)
    assert log.read_bytes() == data
    assert sorted(path.name for path in log.parent.iterdir()) == ["a.log", "a.log.0"]


@pytest.mark.parametrize("what", ["link", "fifo"])
def test_what_is_no_file_is_not_rotated(log: Path, what: str) -> None:
    if what == "link":
        log.with_name("other").write_bytes(build_lines(0, 5_000))
        log.symlink_to("other")
    else:
        os.mkfifo(log)
    with pytest.raises(OSError, match=r"links|regular"):
        rotate(log, LIMITS)


def test_on_a_full_disk_nothing_is_lost_and_it_goes_on_when_there_is_room(
    mount: Callable[..., Path],
) -> None:
    directory = mount("tmpfs", "-o", "size=600k")
    log = directory / "a.log"
    data = build_lines(0, 6_000)
    write(log, data)
    hog = directory / "hog"
    with hog.open("wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096 and shutil.disk_usage(directory).free:
            pass
    with pytest.raises(OSError, match="No space") as raised:
        rotate(log, LIMITS)
    assert raised.value.errno == errno.ENOSPC
    assert sorted(path.name for path in directory.iterdir()) == ["a.log", "hog"]
    assert log.read_bytes() == data
    hog.unlink()
    rotate_all(log)
    assert read_all(log) == data


def test_a_file_system_without_holes_is_found_out_beforehand(
    tmp_path: Path, mount: Callable[..., Path]
) -> None:
    assert find_refusal(tmp_path) is None
    directory = mount("ramfs")
    assert find_refusal(directory) == "its file system has no holes"
    assert not list(directory.iterdir())


# -- Reading over rotations -----------------------------------------------------------------------


@pytest.mark.parametrize("lines", [0, 1, 700, 5_000, 8_000, 100_000])
def test_the_last_lines_are_read_over_the_copies(log: Path, lines: int) -> None:
    written = build_lines(0, 8_000)
    write(log, written)
    rotate_all(log)
    expected = written.decode().splitlines()
    assert read_tail(log, lines) == (expected[-lines:] if lines else [])


def test_a_follower_misses_no_line_however_late_it_is(log: Path) -> None:
    write(log, build_lines(0, 100))
    prompt, late = Follower(log), Follower(log)
    seen: list[bytes] = list(prompt.read_lines())
    first = list(late.read_lines())
    for number in range(100, 12_000, 100):
        write(log, build_lines(number, number + 100))
        rotate_all(log)
        seen += prompt.read_lines()
    expected = build_lines(0, 12_000).split(b"\n")[:-1]
    assert seen == expected
    assert first + list(late.read_lines()) == expected
    prompt.close()
    late.close()


def test_a_follower_that_reads_at_the_moment_of_the_hole_sees_no_zeros(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = build_lines(0, 9_000)
    write(log, data)
    real = os.pread
    follower = Follower(log)

    def punch_first(descriptor: int, size: int, position: int) -> bytes:
        with pytest.MonkeyPatch.context() as undone:
            undone.setattr(os, "pread", real)
            rotate(log, LIMITS)
        return real(descriptor, size, position)

    monkeypatch.setattr(os, "pread", punch_first)
    assert list(follower.read_lines()) == data.split(b"\n")[:-1]
    follower.close()


def test_a_follower_goes_on_with_what_was_not_removed_yet(log: Path) -> None:
    limits = LogLimits(max_bytes=100_000, backups=1)
    write(log, b"first, and not finished")
    follower = Follower(log)
    assert list(follower.read_lines()) == []
    write(log, b"\n" + build_lines(0, 9_000))
    rotate_all(log, limits)
    seen = list(follower.read_lines())
    assert seen[0] == b"first, and not finished"
    kept = list_copies(log)[0].path.read_bytes().split(b"\n")[0]
    assert seen[1] == kept
    assert seen[-1] == build_lines(8_999, 9_000).rstrip()
    follower.close()


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_a_follower_goes_on_with_a_log_that_was_emptied_or_replaced(log: Path, how: str) -> None:
    write(log, build_lines(0, 5_000))
    rotate_all(log)
    follower = Follower(log)
    follower.seek_tail(0)
    assert list(follower.read_lines()) == []
    if how == "emptied":
        os.truncate(log, 0)
    else:
        log.unlink()
    write(log, b"new\n")
    assert list(follower.read_lines()) == [b"new"]
    follower.close()


def test_a_line_without_an_end_fills_no_memory(log: Path) -> None:
    with log.open("wb") as file:
        for _ in range(10):
            file.write(b"50%\r" * (1 << 20))
    tail = read_tail(log, 2)
    assert sum(map(len, tail)) < 10 << 20
    follower = Follower(log)
    assert max(map(len, follower.read_lines(last=True))) <= (1 << 20) + (1 << 16)
