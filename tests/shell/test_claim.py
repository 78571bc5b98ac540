"""Claims of real, killed processes; of reused pids; and with a crash before every step."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from telemetry import claim as claims
from telemetry import processes
from telemetry.claim import (
    Claimed,
    build_shard_names,
    claim,
    complete_claims,
    find_unowned,
    list_unfolded,
)
from telemetry.shards import RETIRED, list_shards, read_shard, render_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WRITER: Final = Path(__file__).parents[1] / "children" / "metricsd_writer.py"
# More than any kernel gives away.
DEAD: Final = 2_000_000_001
OTHER: Final = 2_000_000_002
OURS: Final = os.getpid()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "prom_multiproc"
    path.mkdir()
    return path


def write_and_die(directory: Path) -> int:
    """Write one shard of every kind and be killed; returns the pid."""
    with subprocess.Popen(
        [sys.executable, WRITER, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    return process.pid


def write_shards(directory: Path, pid: int, *prefixes: str) -> None:
    """Write shards of one series each, whose values tell their files apart."""
    for number, prefix in enumerate(prefixes or ("counter", "gauge_livemax", "gauge_max")):
        key = json.dumps([prefix, prefix, {"pid": str(pid)}, "Help."]).encode()
        value = 2.0**number
        (directory / f"{prefix}_{pid}.db").write_bytes(render_shard([(key, value, 0.0)]))


def read_totals(directory: Path) -> Counter[str]:
    """Add up what a scrape would: flat, then open and complete claims, each file once.

    Live gauges count in the flat directory only.
    """
    retired = directory / RETIRED
    places = [directory, *sorted(retired.glob("open-*")), *sorted(retired.glob("claim-*"))]
    totals: Counter[str] = Counter()
    seen = set()
    for place in places:
        for shard in list_shards(place):
            if shard.path.stat().st_ino not in seen and not (shard.live and place != directory):
                seen.add(shard.path.stat().st_ino)
                for key, value, _ in read_shard(shard.path)[0]:
                    totals[key.decode()] += int(value)
    return totals


def fold_totals(directory: Path) -> Counter[str]:
    """Add up what a fold would: claim by claim, so that a shard in two of them counts twice."""
    totals: Counter[str] = Counter()
    for path in (directory / RETIRED).glob("claim-*"):
        for shard in list_shards(path):
            for key, value, _ in read_shard(shard.path)[0]:
                totals[key.decode()] += int(value)
    return totals


def list_claims(directory: Path) -> dict[str, list[str]]:
    """Name what lies in each directory of `.retired`."""
    found = sorted((directory / RETIRED).glob("*-*"))
    return {path.name: sorted(shard.path.name for shard in list_shards(path)) for path in found}


def list_flat(directory: Path) -> list[str]:
    return [shard.path.name for shard in list_shards(directory)]


# -- What a claim is ------------------------------------------------------------------------------


# Brackets are a pattern to glob, with which the library looks for its files.
@pytest.mark.parametrize("name", ["prom_multiproc", "run[1]*"])
def test_a_dead_pids_shards_leave_whole_but_for_its_live_gauges(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    dead, other = write_and_die(directory), write_and_die(directory)
    kept = [path for path in list_flat(directory) if path.endswith(f"_{other}.db")]
    done = claim(directory, dead, pinned=True)
    names = [f"{kind}_{dead}.db" for kind in ("counter", "gauge_max", "histogram", "summary")]
    assert done == Claimed(1, tuple(names))
    assert list_claims(directory) == {"claim-1": names}
    assert list_flat(directory) == kept


@pytest.mark.parametrize("broken", [None, type("Broken", (), {})()])
def test_without_the_library_or_with_a_broken_one_the_live_gauges_go_too(
    directory: Path, monkeypatch: pytest.MonkeyPatch, broken: object
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.multiprocess", broken)
    write_shards(directory, DEAD, "counter", "gauge_livesum", "gauge_liveall")
    claim(directory, DEAD, pinned=True)
    assert list_claims(directory) == {"claim-1": [f"counter_{DEAD}.db"]}


def test_a_pid_without_shards_leaves_no_trace(directory: Path) -> None:
    assert claim(directory, DEAD, pinned=True, after=4) == Claimed(4)
    for nothing in (directory / "missing", Path(os.devnull)):
        assert claim(nothing, DEAD, pinned=True, after=4) == Claimed(4)
        assert complete_claims(nothing) == Claimed(0)
        assert find_unowned(nothing, ()) == set()
        assert list_unfolded(nothing) == ()
    assert not list(directory.iterdir())


def test_live_gauges_alone_make_no_claim_and_take_no_number(directory: Path) -> None:
    write_shards(directory, DEAD, "gauge_livemax", "gauge_livemostrecent")
    assert claim(directory, DEAD, pinned=True) == Claimed(0)
    assert list_flat(directory) == []
    assert list_claims(directory) == {}


def test_only_regular_files_are_moved(directory: Path) -> None:
    write_shards(directory, DEAD, "counter")
    (directory / f"histogram_{DEAD}.db").mkdir()
    (directory / f"summary_{DEAD}.db").symlink_to("nowhere")
    claim(directory, DEAD, pinned=True)
    assert list_claims(directory) == {"claim-1": [f"counter_{DEAD}.db"]}
    assert (directory / f"summary_{DEAD}.db").is_symlink()


def test_every_name_the_library_writes_is_claimed(directory: Path) -> None:
    names = build_shard_names(DEAD)
    assert len(names) == 13
    for name in names:
        (directory / name).touch()
    claim(directory, DEAD, pinned=True)
    assert list_flat(directory) == []
    assert len(list_claims(directory)["claim-1"]) == 8  # without the live gauges


# -- Numbers --------------------------------------------------------------------------------------


def write_base(directory: Path, text: str) -> None:
    (directory / RETIRED).mkdir(exist_ok=True)
    (directory / RETIRED / "base").write_text(text)


def claim_again(directory: Path, after: int = 0) -> int:
    write_shards(directory, DEAD, "counter")
    return claim(directory, DEAD, pinned=True, after=after).number


def test_numbers_go_up_and_are_never_given_twice(directory: Path) -> None:
    assert [claim_again(directory) for _ in range(3)] == [1, 2, 3]
    write_base(directory, '{"claim": 3}\n')
    for path in (directory / RETIRED).glob("claim-*"):
        (path / f"counter_{DEAD}.db").unlink()
        path.rmdir()
    assert claim_again(directory) == 4
    (directory / RETIRED / "claim-9").mkdir()
    assert claim_again(directory) == 10
    assert claim_again(directory, after=40) == 41


NO_BASES: Final = [
    *("", "\n", "{", "[]\n", "7\n", '{"claim": "7"}\n', '{"claim": true}\n'),
    *('{"claim": -7}\n', '{"claim": 7.5}\n', "[" * 100_000, "\0" * 4096),
    '{"claim": ' + "9" * 5000 + "}\n",
]


@pytest.mark.parametrize("number", range(len(NO_BASES)))
def test_a_base_that_cannot_be_read_names_no_claim(directory: Path, number: int) -> None:
    write_base(directory, NO_BASES[number])
    assert claim_again(directory) == 1
    assert claim_again(directory) == 2


@pytest.mark.parametrize("kind", ["fifo", "link", "directory", "loop"])
def test_a_base_that_is_no_file_holds_nobody_up(directory: Path, kind: str) -> None:
    (directory / RETIRED).mkdir()
    base = directory / RETIRED / "base"
    if kind == "fifo":
        os.mkfifo(base)
    elif kind == "directory":
        base.mkdir()
    else:
        base.symlink_to("base" if kind == "loop" else "/dev/zero")
    assert claim_again(directory) == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_without_a_look_at_the_base_no_number_is_given(
    directory: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # The base holds claim 1 to 3: a new claim-1 would be removed as folded.
    write_base(directory, '{"claim": 3}\n')
    write_shards(directory, DEAD, "counter")
    opening = os.open

    def fail(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path).endswith("base"):
            raise OSError(number, os.strerror(number), str(path))
        return opening(path, *arguments, **more)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match="cannot claim the shards of pid"):
        claim(directory, DEAD, pinned=True)
    assert list(list_claims(directory)) == ["open-1"]
    monkeypatch.undo()
    assert claim(directory, DEAD, pinned=True).number == 4


def test_a_base_may_begin_with_a_long_line(directory: Path) -> None:
    sections = [{"pid": number, "kind": "gauge", "mode": "all"} for number in range(5000)]
    write_base(directory, json.dumps({"sections": sections, "claim": 12}) + "\nbytes")
    assert claim_again(directory) == 13


def test_the_claims_are_listed_before_the_base_is_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between the two a fold publishes its base, and takes away the one claim there was.
    assert claim_again(directory) == 1
    looks = 0

    def fold_after_the_first(look: Callable[..., Any]) -> Callable[..., Any]:
        def look_and_fold(*arguments: Any, **more: Any) -> Any:
            nonlocal looks
            found = look(*arguments, **more)
            looks += 1
            if looks == 1:
                write_base(directory, '{"claim": 1}\n')
                shutil.rmtree(directory / RETIRED / "claim-1")
            return found

        return look_and_fold

    number = claims._find_number
    list_numbered, read_folded = claims._list_numbered, claims._read_folded

    def find_number(*arguments: Any) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(claims, "_list_numbered", fold_after_the_first(list_numbered))
            patch.setattr(claims, "_read_folded", fold_after_the_first(read_folded))
            return number(*arguments)

    monkeypatch.setattr(claims, "_find_number", find_number)
    assert claim_again(directory) == 2
    assert looks == 2


def test_what_else_lies_in_retired_is_left_alone(directory: Path) -> None:
    retired = directory / RETIRED
    retired.mkdir()
    for name in ("bad", "open-", "open-0", "open-01", "open-x", "claim-7x", "claim--1", "open-1.d"):
        (retired / name).mkdir()
        write_shards(retired / name, DEAD, "counter")
    (retired / "open-5").write_text("not a claim")
    (retired / "open-6").symlink_to("bad")
    names = {path.name for path in retired.iterdir()}
    assert complete_claims(directory) == Claimed(0)
    assert claim_again(directory) == 1
    assert {path.name for path in retired.iterdir()} == {*names, "claim-1"}
    assert len(list((retired / "bad").iterdir())) == 1


def test_a_free_place_is_found_beside_claims_under_way(directory: Path) -> None:
    for number in (1, 2):
        (directory / RETIRED / f"open-{number}").mkdir(parents=True)
        write_shards(directory / RETIRED / f"open-{number}", OTHER, "counter")
    assert claim_again(directory) == 1
    assert set(list_claims(directory)) == {"claim-1", "open-1", "open-2"}


def test_unfolded_are_the_open_ones_and_those_newer_than_the_base(directory: Path) -> None:
    for number in (1, 2, 3):
        assert claim_again(directory) == number
    (directory / RETIRED / "open-1").mkdir()
    write_shards(directory / RETIRED / "open-1", OTHER, "counter")
    write_base(directory, '{"claim": 2}\n')
    found = [str(path.relative_to(directory / RETIRED)) for path in list_unfolded(directory)]
    assert found == [f"open-1/counter_{OTHER}.db", f"claim-3/counter_{DEAD}.db"]
    assert list_unfolded(directory / "missing") == ()


# -- Who owns a shard -----------------------------------------------------------------------------


@contextmanager
def hold(*paths: Path) -> Iterator[None]:
    """Hold files open in this process, as a process of our pid would hold its shards."""
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(path.open("r+b"))
        yield


def test_a_held_shard_goes_back_to_its_process_and_is_not_marked(directory: Path) -> None:
    write_shards(directory, OURS)
    flat = list_flat(directory)
    inodes = [shard.inode for shard in list_shards(directory)]
    with hold(*(directory / name for name in flat)):
        done = claim(directory, OURS, pinned=False)
    assert done == Claimed(0, (), tuple(flat))
    assert list_flat(directory) == flat
    assert [shard.inode for shard in list_shards(directory)] == inodes
    assert list_claims(directory) == {}


def test_of_a_reused_pid_only_what_its_process_holds_goes_back(directory: Path) -> None:
    # The first owner left live gauges and a histogram; the second one went on in its counter.
    write_shards(directory, OURS, "counter", "histogram", "gauge_livemax")
    with hold(directory / f"counter_{OURS}.db"):
        done = claim(directory, OURS, pinned=False)
    assert done == Claimed(1, (f"histogram_{OURS}.db",), (f"counter_{OURS}.db",))
    assert list_flat(directory) == [f"counter_{OURS}.db"]
    assert list_claims(directory) == {"claim-1": [f"histogram_{OURS}.db"]}


def test_what_a_living_process_does_not_show_counts_as_held(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(directory, OURS)
    flat = list_flat(directory)
    monkeypatch.setattr(claims, "holds", lambda *_: None)
    assert find_unowned(directory, ()) == set()
    assert claim(directory, OURS, pinned=False).returned == tuple(flat)
    assert list_flat(directory) == flat


def test_a_pinned_pid_needs_no_look(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(directory, OURS)
    monkeypatch.setattr(claims, "holds", lambda *_: pytest.fail("looked"))
    assert claim(directory, OURS, pinned=True).number == 1


def test_a_held_shard_whose_name_is_taken_again_stays_open_until_its_process_ends(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(directory, OURS, "counter", "gauge_livemax")
    path = directory / f"counter_{OURS}.db"
    take = Path.rename

    def take_and_write_anew(source: Path, target: Path) -> Path:
        moved = take(source, target)
        if source == path:
            write_shards(directory, OURS, "counter")
        return moved

    with hold(path):
        monkeypatch.setattr(Path, "rename", take_and_write_anew)
        assert claim(directory, OURS, pinned=False) == Claimed(0)
        monkeypatch.setattr(Path, "rename", take)
        held = {"open-1": [f"counter_{OURS}.db", f"gauge_livemax_{OURS}.db"]}
        assert list_claims(directory) == held
        assert complete_claims(directory) == Claimed(0)
        assert list_claims(directory) == held
        assert read_totals(directory).total() == 2
    assert complete_claims(directory).number == 1
    assert claim(directory, OURS, pinned=False).number == 2
    assert read_totals(directory).total() == 2
    assert list_flat(directory) == []


def test_unowned_are_the_dead_and_who_holds_none_of_its_shards(directory: Path) -> None:
    dead = write_and_die(directory)
    write_shards(directory, OURS)
    with subprocess.Popen(
        [sys.executable, WRITER, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as living:
        assert living.stdout is not None
        living.stdout.readline()
        # The half-written shard of a living process, and one it has not come to open again.
        (directory / f"gauge_sum_{living.pid}.db").touch()
        assert find_unowned(directory, ()) == {dead, OURS}
        assert find_unowned(directory, {dead}) == {OURS}
        living.kill()
        assert processes.read_identity(OURS)
        living.communicate()
        assert find_unowned(directory, {OURS}) == {dead, living.pid}
    assert find_unowned(directory / "missing", ()) == set()


# -- What stands in the way -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_a_retired_that_is_no_directory_is_said_and_takes_nothing(
    directory: Path, tmp_path: Path, kind: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    if kind == "file":
        (directory / RETIRED).touch()
    else:
        (directory / RETIRED).symlink_to(elsewhere)
    if kind == "link":
        elsewhere.mkdir()
    write_shards(directory, DEAD)
    flat = list_flat(directory)
    with pytest.raises(
        OSError, match=r"cannot claim the shards of pid \d+: .*\.retired: not a dir"
    ):
        claim(directory, DEAD, pinned=True)
    assert list_flat(directory) == flat
    assert complete_claims(directory) == Claimed(0)
    assert not elsewhere.exists() or not list(elsewhere.iterdir())
    assert claim(directory, OTHER, pinned=True) == Claimed(0)


def test_what_fails_half_way_is_completed_by_the_next_call(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(directory, DEAD)
    before = read_totals(directory)
    rename = os.rename

    def fail(source: Any, target: Any, **more: Any) -> None:
        if "gauge_max" in str(source):
            raise OSError(28, "No space left on device", str(source))
        rename(source, target, **more)

    monkeypatch.setattr(os, "rename", fail)
    for _ in range(3):
        with pytest.raises(OSError, match="No space left on device") as raised:
            claim(directory, DEAD, pinned=True)
        assert raised.value.errno == 28
        assert read_totals(directory) == before
    assert len(list_claims(directory)) == 1  # trying again makes no heap of them
    monkeypatch.undo()
    done = claim(directory, DEAD, pinned=True)
    assert done.number == 2
    assert set(list_claims(directory)) == {"claim-1", "claim-2"}
    assert read_totals(directory).total() == 5


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_is_said(directory: Path) -> None:
    write_shards(directory, DEAD)
    directory.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot claim the shards of pid"):
        claim(directory, DEAD, pinned=True)


def test_one_claim_that_cannot_be_completed_holds_up_no_other(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, pid in ((1, DEAD), (2, OTHER)):
        (directory / RETIRED / f"open-{number}").mkdir(parents=True)
        write_shards(directory / RETIRED / f"open-{number}", pid, "counter")
    rename = os.rename

    def fail(source: Any, target: Any, **more: Any) -> None:
        if "open-1" in str(source):
            raise OSError(5, "Input/output error", str(source))
        rename(source, target, **more)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match=r"cannot complete a claim: .*open-1: Input/output error"):
        complete_claims(directory)
    assert set(list_claims(directory)) == {"open-1", "claim-1"}


# -- A crash before every step --------------------------------------------------------------------

MUTATING: Final = ("mkdir", "rename", "replace", "link", "unlink", "remove", "rmdir")


class CrashError(BaseException):
    """The process died: nothing of ours may catch this."""


@contextmanager
def crash_before(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Die before the given mutating call (0 is the first); yields whether it came to that."""
    calls = 0
    with monkeypatch.context() as patch:

        def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
            def die_or_call(*arguments: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > step:
                    raise CrashError
                return call(*arguments, **more)

            return die_or_call

        for name in MUTATING:
            patch.setattr(os, name, wrap(getattr(os, name)))
        yield lambda: calls > step


def claim_dead(directory: Path) -> None:
    claim(directory, DEAD, pinned=True)


def claim_held(directory: Path) -> None:
    """Claim by mistake what a process holds, all but one shard that a former one left."""
    with hold(directory / f"counter_{OURS}.db", directory / f"gauge_max_{OURS}.db"):
        claim(directory, OURS, pinned=False)


def recover(directory: Path) -> None:
    """Do what a supervisor does at its start, in its order."""
    complete_claims(directory)
    for pid in sorted(find_unowned(directory, ())):
        claim(directory, pid, pinned=False)


SCENES: Final = [
    pytest.param(claim_dead, DEAD, id="dead"),
    pytest.param(claim_held, OURS, id="held"),
]


def play(
    directory: Path, pid: int, monkeypatch: pytest.MonkeyPatch, *steps: tuple[Any, int]
) -> bool:
    """Let each action die before its step; whether the last one did. Totals hold throughout."""
    write_shards(directory, pid, "counter", "gauge_livemax", "gauge_max", "histogram")
    right = read_totals(directory)
    lasting = Counter({key: value for key, value in right.items() if "livemax" not in key})
    for act, step in steps:
        with crash_before(step, monkeypatch) as has_crashed, suppress(CrashError):
            act(directory)
        at_next_scrape = read_totals(directory)
        assert at_next_scrape in (right, lasting), (steps, at_next_scrape)
    crashed = has_crashed()
    recover(directory)
    assert read_totals(directory) == fold_totals(directory) == lasting, steps
    assert not list((directory / RETIRED).glob("open-*")), steps
    assert list_flat(directory) == [], steps
    return crashed


@pytest.mark.parametrize(("act", "pid"), SCENES)
def test_a_crash_before_any_step_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None], pid: int
) -> None:
    points = 0
    crashed = True
    while crashed:
        directory = tmp_path / f"{points}"
        directory.mkdir()
        crashed = play(directory, pid, monkeypatch, (act, points))
        points += crashed
    print(f"{act.__name__}: a crash before each of {points} steps")
    assert points >= 8


@pytest.mark.parametrize(("act", "pid"), SCENES)
def test_nor_does_a_crash_in_the_recovery_from_it_nor_the_next_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None], pid: int
) -> None:
    points = 0

    def die_again(directory: Path) -> None:
        claim(directory, pid, pinned=True)

    for second in (recover, die_again):
        for first_step in range(20):
            second_step, crashed = 0, True
            while crashed:
                directory = tmp_path / f"{second.__name__}-{first_step}-{second_step}"
                directory.mkdir()
                steps = ((act, first_step), (second, second_step))
                crashed = play(directory, pid, monkeypatch, *steps)
                points += crashed
                second_step += 1
    print(f"{act.__name__}: {points} pairs of steps")
    assert points >= 100
