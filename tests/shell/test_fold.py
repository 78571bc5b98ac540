"""Folding real files: crashed before every change it makes, on a full disk, against a rival."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import traceback
import warnings
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import pytest

from collecting import collecting
from stock import list_sections, merge_stock
from telemetry import base as base_room
from telemetry import fold as fold_room
from telemetry.base import Base, BaseError, absorb, render_base
from telemetry.fold import (
    BAD_BASES_KEPT,
    BAD_SHARDS_KEPT,
    Claim,
    list_claims,
    lock_retired,
    publish,
    read_base,
    recover,
    remove_claims,
    set_aside_base,
    write_next,
)
from telemetry.shards import RETIRED, Defect, ShardError, list_directory, read_shard, render_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stock import Contents, Page
    from telemetry.collector import ShardCollector
    from telemetry.shards import Listing


@pytest.fixture
def retired(tmp_path: Path) -> Path:
    path = tmp_path / RETIRED
    path.mkdir()
    return path


# -- Shards, claims, and who reads them -----------------------------------------------------------


def build_key(family: str, name: str, **labels: str) -> bytes:
    return json.dumps([family, name, labels, "Help."]).encode()


SALES: Final = build_key("sales", "sales_total", item="tea")
MORE_SALES: Final = build_key("sales", "sales_total", item="milk")
WAITS: Final = [build_key("wait", "wait_bucket", le=bound) for bound in ("1.0", "+Inf")]


def build_image(kind: str, mode: str, value: float) -> bytes:
    """Build a shard of two series; whole numbers, so that every sum of them is exact."""
    if kind == "histogram":
        return render_shard([(WAITS[0], value, 0.0), (WAITS[1], 1.0, 0.0)])
    if kind == "counter":
        return render_shard([(SALES, value, 0.0), (MORE_SALES, 1.0, 0.0)])
    family = f"{kind}_{mode}"
    keys = [build_key(family, family, of=text) for text in ("a", "b")]
    return render_shard((key, value, value) for key in keys)


def put(claim: Path, name: str, value: float, *, cut: int = 0) -> Path:
    """Put a shard into a claim, `cut` bytes short."""
    claim.mkdir(exist_ok=True)
    kind, _, mode = name.rpartition("_")[0].partition("_")
    image = build_image(kind, mode, value)
    path = claim / name
    path.write_bytes(image[: len(image) - cut])
    return path


def read_contents(claim: Claim) -> list[Contents]:
    return [
        (shard.kind, shard.mode, shard.pid, read_shard(shard.path)[0]) for shard in claim.shards
    ]


def list_new(retired: Path, base: Base) -> list[Claim]:
    return [c for c in list_claims(retired) if c.number is not None and c.number > base.claim]


def fold(retired: Path) -> None:
    """Fold as metricsd does when it starts: its own code, in its own order."""
    with collecting(retired.parent) as collector:
        while collector.fold():
            pass


def read_page(retired: Path) -> Page:
    """Read what a scrape would say: the base and the claims that are not in it."""
    base = read_base(retired)
    opened = [claim for claim in list_claims(retired) if claim.number is None]
    claims = [*list_new(retired, base), *opened]
    contents = [shard for claim in claims for shard in read_contents(claim)]
    return merge_stock([*list_sections(base), *contents], accumulate=True)


def list_names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def list_tree(directory: Path) -> dict[str, bytes | None]:
    """List what lies in a directory: the bytes of each file, None for a directory."""
    return {
        str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes()
        for path in sorted(directory.rglob("*"))
    }


# -- Crashing -------------------------------------------------------------------------------------

CRASHED: Final = 77
CHANGING_EVENTS: Final = (
    *("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.utime", "os.setxattr"),
)


class Crash:
    """Ends this process, a forked child, before its `point`-th call that changes a file.

    Python reports every such call to an audit hook, whatever code it comes from, but for those on
    descriptors; these are replaced. The first write is short, and ends in the middle once.
    """

    def __init__(self, point: int, report: int) -> None:
        self._left = point
        self._report = report
        self._write = os.write
        self._fsync = os.fsync
        self._short = True

    def arm(self) -> None:
        sys.addaudithook(self.hook)
        patch = pytest.MonkeyPatch()
        patch.setattr(os, "write", self.write)
        patch.setattr(os, "fsync", self.fsync)

    def tick(self, call: str) -> None:
        self._left -= 1
        if self._left == 0:
            self._write(self._report, call.encode())
            os._exit(CRASHED)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event in CHANGING_EVENTS:
            self.tick(event)
        elif event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            self.tick("open to write")

    def write(self, descriptor: int, data: memoryview) -> int:
        self.tick("os.write")
        written = self._write(descriptor, data[: len(data) // 2] if self._short else data)
        if self._short:
            self._short = False
            self.tick("half of os.write")
        return written

    def fsync(self, descriptor: int) -> None:
        self.tick("os.fsync")
        self._fsync(descriptor)


def run_until(point: int, work: Callable[[], None]) -> str | None:
    """Run work in a child that crashes at a point; give the call it died before, None if it ended.

    Fails when the work raises.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of threads, which a parallel test run has; the child uses none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            Crash(point, writer).arm()
            work()
        except BaseException:  # noqa: BLE001  it must not go on as a second test run
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as report:
        call = report.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, CRASHED}
    return call if status == CRASHED else None


def build_past(retired: Path) -> None:
    """Build a `.retired/` with something of everything a fold can meet."""
    for claim in (1, 2):
        put(retired / f"claim-{claim}", f"counter_{claim}.db", 100)
        put(retired / f"claim-{claim}", f"gauge_all_{claim}.db", claim)
        put(retired / f"claim-{claim}", f"gauge_mostrecent_{claim}.db", claim)
    fold(retired)
    # A fold that crashed after its publishing, and one that crashed in its writing.
    put(retired / "claim-2", "counter_2.db", 100)
    put(retired / "claim-2", "summary_2.db", 100, cut=30)
    (retired / "base.tmp").write_bytes(b'{"schema": "ptsup.base/1", ')
    put(retired / "claim-3", "counter_11.db", 3)
    put(retired / "claim-3", "gauge_all_11.db", 4)
    put(retired / "claim-3", "gauge_livesum_11.db", 5)
    put(retired / "claim-3", "histogram_11.db", 6)
    put(retired / "claim-4", "gauge_mostrecent_12.db", 7, cut=30)
    put(retired / "claim-4", "gauge_sum_12.db", 8)
    (retired / "claim-5").mkdir()
    put(retired / "claim-7", "counter_11.db", 9)  # its pid came again
    put(retired / "claim-7", "gauge_min_11.db", -10)
    put(retired / "claim-7", "gauge_max_11.db", 11)
    put(retired / "open-1", "counter_14.db", 12)


PAST_SALES: Final = 100 + 100 + 3 + 9 + 12


def get_sales(page: Page) -> float:
    return page["sales"][2]["sales_total", frozenset({("item", "tea")})]


def check_folded(retired: Path, page: Page) -> None:
    """Hold that nothing is lost, nothing counted twice, and nothing left over."""
    assert read_page(retired) == page
    assert list_names(retired) == {"base", "bad", "open-1"}
    assert read_base(retired).claim == 7
    # Which is set aside first depends on the crash.
    kept = {
        path.name.partition(".")[2]: path.stat().st_size for path in (retired / "bad").iterdir()
    }
    assert set(kept) == {
        "claim-2.truncated.summary_2.db",
        "claim-4.truncated.gauge_mostrecent_12.db",
    }
    assert all(kept.values())


def crash_everywhere(retired: Path, scratch: Path, page: Page) -> Iterator[tuple[str | None, Path]]:
    """Fold copies, each crashing one change later; give the call it died before, and the copy.

    The last one, which ends by itself, comes with None. After each, the page must be the same.
    """
    for point in count(1):
        copy = scratch / RETIRED
        shutil.copytree(retired, copy)
        call = run_until(point, lambda: fold(copy))  # noqa: B023  called at once
        assert read_page(copy) == page, f"wrong totals after a crash before {call} ({point})"
        yield call, copy
        shutil.rmtree(copy)
        if call is None:
            return


def test_a_crash_before_any_change_of_a_fold_moves_no_total(retired: Path, tmp_path: Path) -> None:
    build_past(retired)
    page = read_page(retired)
    assert get_sales(page) == PAST_SALES
    calls = []
    for call, copy in crash_everywhere(retired, tmp_path / "copy", page):
        calls.append(call)
        fold(copy)
        check_folded(copy, page)
    assert calls.pop() is None
    print(f"\ncrash points of recovery and fold: {len(calls)}: {', '.join(map(str, calls))}")
    assert calls.count("os.remove") >= 10  # base.tmp, 1 shard to recover, 8 to fold
    assert calls.count("os.rmdir") == 5
    assert calls.count("os.rename") == 3  # two bad shards, one base
    assert {"open to write", "os.write", "half of os.write", "os.fsync", "os.mkdir"} <= set(calls)
    # The next base is whole and on the disk before it takes the present one's place.
    written = len(calls) - calls[::-1].index("os.write")
    assert calls[written : written + 2] == ["os.fsync", "os.rename"]


def test_a_crash_in_the_recovery_from_a_crash_moves_no_total(retired: Path, tmp_path: Path) -> None:
    put(retired / "claim-1", "counter_1.db", 1)
    fold(retired)
    put(retired / "claim-2", "counter_2.db", 2)
    put(retired / "claim-3", "counter_2.db", 4, cut=8)
    page = read_page(retired)
    assert get_sales(page) == 7
    points = 0
    for first, copy in crash_everywhere(retired, tmp_path / "first", page):
        for second, again in crash_everywhere(copy, tmp_path / "second", page):
            fold(again)
            assert read_page(again) == page, (first, second)
            assert list_names(again) == {"base", "bad"}, (first, second)
            assert len(list_names(again / "bad")) == 1, (first, second)
            points += first is not None and second is not None
    print(f"\npairs of crash points, the second in the recovery from the first: {points}")
    assert points >= 100


# -- Reading meanwhile ----------------------------------------------------------------------------

CHANGES: Final = ("open", "write", "mkdir", "rename", "replace", "unlink", "rmdir")


class Reader:
    """Scrapes before each call of this thread that may change a file.

    By the collector itself, in a thread of its own; where a scrape has to wait until the fold
    goes on, it does. And as the metricsd would that begins at this moment, which has the disk
    alone. As a lock in place of the collector's own it scrapes around each turn of the fold, too.
    """

    def __init__(self, retired: Path, collector: ShardCollector) -> None:
        self.stops: list[str] = []
        self.pages: list[Page] = []
        self.scraped: list[list[str]] = []
        self._retired = retired
        self._collector = collector
        self._reading = False
        self._scrapes: list[threading.Thread] = []
        self._turn = collector._turn

    def scrape(self) -> None:
        lines = self._collector.render("").body.decode().splitlines()
        self.scraped.append(sorted(line for line in lines if "ptsup_" not in line))

    def look(self) -> None:
        self._reading = True
        self.pages.append(read_page(self._retired))
        self._reading = False
        has_to_wait = self._turn.locked()
        scrape = threading.Thread(target=self.scrape)
        self._scrapes.append(scrape)
        scrape.start()
        if not has_to_wait:
            scrape.join()

    def __enter__(self) -> None:
        self.stops.append("a turn")
        self.look()
        self._turn.acquire()

    def __exit__(self, *_: object) -> None:
        self._turn.release()
        self.stops.append("no turn")
        self.look()

    def look_before(self, name: str, patch: pytest.MonkeyPatch) -> None:
        call, me = getattr(os, name), threading.get_ident()

        def look_first(*arguments: Any, **more: Any) -> Any:
            if threading.get_ident() == me and not self._reading:
                self.stops.append(name)
                self.look()
            return call(*arguments, **more)

        patch.setattr(os, name, look_first)

    def finish(self) -> None:
        for scrape in self._scrapes:
            scrape.join()


def test_whoever_reads_between_two_changes_of_a_fold_finds_the_same_totals(
    retired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_past(retired)
    page = read_page(retired)
    with collecting(retired.parent) as collector:
        reader = Reader(retired, collector)
        reader.scrape()
        with monkeypatch.context() as patch:
            for name in CHANGES:
                reader.look_before(name, patch)
            patch.setattr(collector, "_turn", reader)
            assert collector.fold()
        reader.finish()
        reader.scrape()
    check_folded(retired, page)
    assert f'sales_total{{item="tea"}} {PAST_SALES:.1f}' in reader.scraped[0]
    for stop, (found, lines) in enumerate(zip(reader.pages, reader.scraped[1:-1], strict=True)):
        assert found == page, f"wrong on the disk before {reader.stops[stop:]}"
        assert lines == reader.scraped[0], f"wrong on the page before {reader.stops[stop:]}"
    assert reader.scraped[-1] == reader.scraped[0]
    # A bad shard, the base, and the four claims.
    assert [reader.stops.count(name) for name in ("rename", "replace", "rmdir")] == [1, 1, 4]


# -- Writing and publishing -----------------------------------------------------------------------


def fill_disk(patch: pytest.MonkeyPatch, call: str) -> None:
    """Let one call of `os` fail as on a full disk; a write does so when half is written."""
    real = getattr(os, call)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if call == "write":
            if len(args[1]) > 50:
                return real(args[0], args[1][:50])
        elif call == "open" and not args[1] & os.O_CREAT:
            return real(*args, **kwargs)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, call, fail)


@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_a_full_disk_leaves_the_base_and_takes_no_room(
    retired: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(retired / "claim-1", "counter_1.db", 1)
    fold(retired)
    put(retired / "claim-2", "counter_2.db", 2)
    before, page = list_tree(retired), read_page(retired)
    with monkeypatch.context() as patch:
        fill_disk(patch, call)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                write_next(retired, BASE)
            fold(retired)
            assert list_tree(retired) == before
    fold(retired)
    assert list_names(retired) == {"base"}
    assert read_page(retired) == page


BASE: Final = absorb(Base(), 5, [("counter", "", 1, [(SALES, 1.0, 0.0)])])


@pytest.mark.parametrize("leave", ["file", "link"])
def test_what_a_crash_left_half_written_is_replaced(
    retired: Path, tmp_path: Path, leave: str
) -> None:
    stranger = tmp_path / "stranger"
    stranger.write_bytes(b"x" * 10_000)
    if leave == "file":
        shutil.copyfile(stranger, retired / "base.tmp")
        (retired / "base.tmp").chmod(0o644)
    else:
        (retired / "base.tmp").symlink_to(stranger)
    write_next(retired, BASE)
    assert (retired / "base.tmp").read_bytes() == render_base(BASE)
    assert stranger.read_bytes() == b"x" * 10_000
    assert read_base(retired) == Base()
    publish(retired)
    assert list_names(retired) == {"base"}
    assert read_base(retired) == BASE


def test_the_base_is_for_its_owner_alone(retired: Path) -> None:
    before = os.umask(0)
    try:
        write_next(retired, BASE)
    finally:
        os.umask(before)
    assert stat.S_IMODE((retired / "base.tmp").stat().st_mode) == 0o600


def test_a_base_too_large_to_be_read_back_is_not_published(
    retired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_room, "BASE_LIMIT_BYTES", 100)
    with pytest.raises(BaseError):
        write_next(retired, BASE)
    assert list_tree(retired) == {}


# -- The lock -------------------------------------------------------------------------------------

HOLDER: Final = """
import sys, time
from pathlib import Path
from telemetry.fold import lock_retired
print(lock_retired(Path(sys.argv[1])), flush=True)
time.sleep(100)
"""


def test_a_second_metricsd_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert int(holder.stdout.readline()) > 2
        assert lock_retired(tmp_path) is None
        holder.kill()
    descriptor = lock_retired(tmp_path)
    assert descriptor is not None
    assert lock_retired(tmp_path) is None
    os.close(descriptor)


def test_locking_makes_the_directory_private(tmp_path: Path) -> None:
    descriptor = lock_retired(tmp_path)
    assert descriptor is not None
    os.close(descriptor)
    assert stat.S_IMODE((tmp_path / RETIRED).stat().st_mode) == 0o700


# -- Listing --------------------------------------------------------------------------------------


def test_claims_are_listed_by_number_and_the_open_ones_after_them(retired: Path) -> None:
    for name in ("open-10", "claim-10", "open-2", "claim-9", "claim-100"):
        (retired / name).mkdir()
    claims = [(claim.number, claim.path.name) for claim in list_claims(retired)]
    complete = [(9, "claim-9"), (10, "claim-10"), (100, "claim-100")]
    assert claims == [*complete, (None, "open-2"), (None, "open-10")]


def test_nothing_else_is_a_claim(retired: Path) -> None:
    for name in ("claim-0", "claim-01", "claim-", "claim-x", "claim-1x", "claim--1", "Claim-1"):
        (retired / name).mkdir()
    for name in ("bad", "claims-1", "claim-\u0661", "claim-1\n", f"claim-{10**18}"):
        (retired / name).mkdir()
    (retired / "claim-1").touch()
    (retired / "claim-2").symlink_to(retired / "bad")
    assert list_claims(retired) == []


def test_live_gauges_are_no_part_of_a_claim_and_strange_names_are_told(retired: Path) -> None:
    claim = retired / "claim-1"
    shards = [put(claim, name, 1) for name in ("counter_1.db", "gauge_max_1.db")]
    put(claim, "gauge_livemax_1.db", 1)
    (claim / "counter_x.db").touch()
    (claim / "counter_2.db").mkdir()
    (listed,) = list_claims(retired)
    assert [shard.path for shard in listed.shards] == shards
    assert listed.defects == (
        ("counter_2.db", Defect.IRREGULAR),
        ("counter_x.db", Defect.NAME),
    )


def test_without_a_directory_there_are_no_claims(tmp_path: Path) -> None:
    assert list_claims(tmp_path / RETIRED) == []
    assert read_base(tmp_path / RETIRED) == Base()
    recover(tmp_path / RETIRED, Base())


def test_a_claim_completed_while_it_is_listed_asks_for_another_listing(
    retired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(retired / "open-1", "counter_1.db", 1)
    real = list_directory

    def complete_first(directory: Path) -> Listing:
        with contextlib.suppress(FileNotFoundError):
            (retired / "open-1").rename(retired / "claim-1")
        return real(directory)

    monkeypatch.setattr(fold_room, "list_directory", complete_first)
    with pytest.raises(FileNotFoundError):
        list_claims(retired)
    assert [claim.number for claim in list_claims(retired)] == [1]


def test_a_claim_whose_name_went_to_the_next_while_it_was_listed_is_not_passed_over(
    retired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(retired / "open-1", "counter_1.db", 1)
    real = list_directory

    def complete_first(directory: Path) -> Listing:
        if not (retired / "claim-1").exists():
            (retired / "open-1").rename(retired / "claim-1")
            put(retired / "open-1", "counter_2.db", 1)
        return real(directory)

    monkeypatch.setattr(fold_room, "list_directory", complete_first)
    with pytest.raises(FileNotFoundError):
        list_claims(retired)
    assert [claim.number for claim in list_claims(retired)] == [1, None]


def test_a_claim_that_cannot_be_listed_is_not_passed_over(
    retired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To fold the one behind it would be to call this one folded.
    for number in (1, 2):
        put(retired / f"claim-{number}", "counter_1.db", 1)

    def refuse_first(directory: Path) -> Listing:
        if directory.name == "claim-1":
            raise PermissionError(errno.EACCES, "no", str(directory))
        return list_directory(directory)

    monkeypatch.setattr(fold_room, "list_directory", refuse_first)
    with pytest.raises(PermissionError):
        list_claims(retired)


@pytest.mark.parametrize(
    ("scans", "numbers"),
    [
        # POSIX leaves it open whether a scan gives a name that is changed meanwhile.
        ([{7: "claim-1"}, {7: "claim-1", 8: "claim-2"}], [1, 2]),
        ([{7: "claim-1", 8: "claim-2"}, {8: "claim-2"}], [1, 2]),
        ([{8: "open-1"}, {8: "claim-2"}], [2]),
    ],
)
def test_a_rename_during_a_scan_hides_no_claim(
    retired: Path,
    scans: list[dict[int, str]],
    numbers: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in (1, 2):
        (retired / f"claim-{number}").mkdir()
    left = iter(scans)
    monkeypatch.setattr(fold_room, "_scan_claims", lambda _: next(left))
    assert [claim.number for claim in list_claims(retired)] == numbers


# -- Reading the base -----------------------------------------------------------------------------


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [damage, link, make_directory, make_fifo])
def test_a_base_that_is_not_whole_and_ours_is_said_and_set_aside(
    retired: Path, spoil: Callable[[Path], None]
) -> None:
    write_next(retired, BASE)
    publish(retired)
    spoil(retired / "base")
    before = os.lstat(retired / "base").st_ino
    with pytest.raises(BaseError):
        read_base(retired)
    kept = set_aside_base(retired)
    assert kept == retired / "bad" / "1.base"
    assert os.lstat(kept).st_ino == before
    assert read_base(retired) == Base()


def test_a_base_too_large_is_not_read_into_memory(
    retired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_next(retired, BASE)
    publish(retired)
    size = (retired / "base").stat().st_size
    seen = []
    monkeypatch.setattr(fold_room, "BASE_LIMIT_BYTES", size)
    monkeypatch.setattr(base_room, "BASE_LIMIT_BYTES", size)
    assert read_base(retired) == BASE
    os.truncate(retired / "base", 1 << 40)
    monkeypatch.setattr(fold_room, "parse_base", lambda data: seen.append(len(data)))
    read_base(retired)
    assert seen == [size + 1]


@pytest.mark.parametrize("defect", [Defect.PERMISSION, Defect.IO])
def test_a_base_that_cannot_be_read_now_is_not_called_damaged(
    retired: Path, defect: Defect, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever is short of descriptors for a moment must not set the totals aside.
    def refuse(path: Path) -> int:
        raise ShardError(defect, "no")

    monkeypatch.setattr(fold_room, "open_shard", refuse)
    with pytest.raises(OSError, match="cannot read the base: no"):
        read_base(retired)


# -- Recovering and removing ----------------------------------------------------------------------


def test_recovery_removes_what_the_base_holds_and_nothing_newer(retired: Path) -> None:
    for name in ("claim-4", "claim-5", "claim-6", "open-1", "open-5"):
        put(retired / name, "counter_1.db", 1)
    (retired / "base.tmp").touch()
    recover(retired, BASE)
    assert list_names(retired) == {"claim-6", "open-1", "open-5"}


def test_recovery_keeps_the_bad_shards_that_a_crash_left(retired: Path) -> None:
    put(retired / "claim-5", "counter_1.db", 1)
    image = put(retired / "claim-5", "counter_2.db", 1, cut=8).read_bytes()
    recover(retired, BASE)
    assert list_tree(retired) == {"bad": None, "bad/1.claim-5.truncated.counter_2.db": image}


def test_a_bad_shard_is_kept_under_a_name_that_says_why(retired: Path) -> None:
    image = put(retired / "claim-6", "counter_123.db", 1).read_bytes()
    put(retired / "claim-6", "counter_124.db", 1)
    put(retired / "claim-6", "gauge_livemax_123.db", 1)
    put(retired / "claim-8", "counter_125.db", 1)
    bad = {
        retired / "claim-6" / "counter_123.db": Defect.TRUNCATED,
        retired / "claim-8" / "counter_125.db": Defect.VALUE,
    }
    remove_claims(retired, list_claims(retired), bad)
    assert list_names(retired) == {"bad"}
    assert list_names(retired / "bad") == {
        "1.claim-6.truncated.counter_123.db",
        "2.claim-8.value.counter_125.db",
    }
    assert (retired / "bad" / "1.claim-6.truncated.counter_123.db").read_bytes() == image
    assert stat.S_IMODE((retired / "bad").stat().st_mode) == 0o700


def test_an_open_claim_is_never_removed(retired: Path) -> None:
    put(retired / "open-1", "counter_1.db", 1)
    before = list_tree(retired)
    with pytest.raises(ValueError, match="open-1 is open"):
        remove_claims(retired, list_claims(retired), {})
    assert list_tree(retired) == before


def test_what_has_vanished_is_removed_already(
    retired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [put(retired / "claim-1", f"counter_{pid}.db", 1) for pid in (1, 2)]
    (retired / "claim-2").mkdir()
    claims = list_claims(retired)
    (retired / "claim-2").rmdir()
    real = os.scandir

    def vanish(directory: Path) -> Any:
        entries = list(real(directory))
        for path in paths:
            path.unlink(missing_ok=True)
        return contextlib.nullcontext(entries)

    monkeypatch.setattr(os, "scandir", vanish)
    remove_claims(retired, claims, {paths[0]: Defect.KEY})
    monkeypatch.undo()
    assert list_tree(retired) == {"bad": None}


def test_a_claim_that_cannot_be_removed_holds_up_no_other(
    retired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        put(retired / f"claim-{number}", "counter_1.db", 1)
    real = os.rmdir

    def refuse(path: Path) -> None:
        if path.name == "claim-1":
            raise PermissionError(errno.EPERM, "stays", str(path))
        real(path)

    monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(PermissionError, match="stays"):
        remove_claims(retired, list_claims(retired), {})
    assert list_names(retired) == {"claim-1"}


def test_a_directory_in_a_claim_is_set_aside_with_all_it_holds(retired: Path) -> None:
    put(retired / "claim-1", "counter_1.db", 1)
    os.mkfifo(retired / "claim-1" / "counter_2.db")
    (retired / "claim-1" / "counter_3.db").symlink_to("counter_1.db")
    (retired / "claim-1" / "counter_4.db").mkdir()
    (retired / "claim-1" / "counter_4.db" / "treasure").write_text("gold")
    remove_claims(retired, list_claims(retired), {})
    aside = "bad/1.claim-1.irregular.counter_4.db"
    assert list_tree(retired) == {"bad": None, aside: None, f"{aside}/treasure": b"gold"}


# -- How much is kept -----------------------------------------------------------------------------


def set_aside(retired: Path, first: int, last: int, *, size: int = 8) -> None:
    """Set a bad shard aside for each claim number."""
    for number in range(first, last + 1):
        os.truncate(put(retired / f"claim-{number}", "counter_1.db", 1), size)
    claims = list_claims(retired)
    remove_claims(retired, claims, {s.path: Defect.LENGTH for c in claims for s in c.shards})


def list_kept(retired: Path) -> list[int]:
    return sorted(int(name.partition(".")[0]) for name in list_names(retired / "bad"))


def test_the_newest_bad_shards_are_kept(retired: Path) -> None:
    set_aside(retired, 1, 3)
    set_aside(retired, 4, BAD_SHARDS_KEPT + 5)
    assert list_kept(retired) == list(range(6, BAD_SHARDS_KEPT + 6))


def test_bad_shards_are_kept_up_to_a_size(retired: Path) -> None:
    set_aside(retired, 1, 5, size=5 << 20)
    assert list_kept(retired) == [3, 4, 5]
    set_aside(retired, 6, 6, size=17 << 20)  # alone too large
    assert list_kept(retired) == [3, 4, 5]
    set_aside(retired, 7, 7, size=1 << 20)
    assert list_kept(retired) == [3, 4, 5, 6]


def test_bad_shards_crowd_out_no_base(retired: Path) -> None:
    for _ in range(BAD_BASES_KEPT + 2):
        (retired / "base").write_bytes(bytes(17 << 20))
        set_aside_base(retired)
    kept = [*range(3, BAD_BASES_KEPT + 3)]
    assert list_kept(retired) == kept
    set_aside(retired, 1, BAD_SHARDS_KEPT + 1)
    assert list_kept(retired) == [*kept, *range(kept[-1] + 2, kept[-1] + BAD_SHARDS_KEPT + 2)]


def test_what_is_not_ours_in_bad_stays(retired: Path) -> None:
    (retired / "bad").mkdir()
    (retired / "bad" / "note.txt").write_text("keep")
    (retired / "bad" / "1.mine").mkdir()
    set_aside(retired, 1, BAD_SHARDS_KEPT + 1)
    names = list_names(retired / "bad")
    assert {"note.txt", "1.mine"} <= names
    assert len(names) == BAD_SHARDS_KEPT + 2


def test_there_is_no_base_to_set_aside(retired: Path) -> None:
    with pytest.raises(FileNotFoundError):
        set_aside_base(retired)
