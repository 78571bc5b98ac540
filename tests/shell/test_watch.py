"""File events, taken when somebody is awake anyway: what is seen, and what it costs to wait."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.watch import Watch
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "ops" / "shards").mkdir(parents=True)
    (tmp_path / "file").write_text("a")
    return tmp_path


@pytest.fixture(params=["told", "asked"])
def watch(
    place: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watch]:
    """A watch that the kernel tells of changes, and one that nobody does, as on macOS."""
    if request.param == "asked":
        monkeypatch.setattr("supervisor.kernel.watch_changes", lambda: None)
    made = Watch((place / "ops" / "shards", place / "ops", place / "file"))
    assert made.take() is None  # whatever was before is not known
    yield made
    made.close()


def see(watch: Watch, path: Path) -> None:
    """Wait until a path is touched, or all may have been."""
    wait_for(
        lambda: (touched := watch.take()) is None or str(path) in touched,
        what=f"an event of {path}",
    )


def test_what_comes_changes_and_goes_is_seen_and_nothing_else(place: Path, watch: Watch) -> None:
    assert watch.take() == frozenset()
    path = place / "ops" / "shards" / "counter_1.db"
    path.write_bytes(b"")
    see(watch, path)
    path.write_bytes(b"more")
    see(watch, path)
    path.unlink()
    see(watch, path)
    (place / "ops" / "shards" / "deep").mkdir()
    see(watch, place / "ops" / "shards" / "deep")
    assert watch.take() == frozenset()


def test_a_file_that_another_one_replaced_goes_on_being_watched(place: Path, watch: Watch) -> None:
    path = place / "file"
    for text in "bcd":
        (place / "new").write_text(text)
        (place / "new").replace(path)
        see(watch, path)
        path.write_text(text * 2)
        see(watch, path)


def test_a_file_that_was_removed_is_watched_again_when_it_is_back(
    place: Path, watch: Watch
) -> None:
    path = place / "file"
    path.unlink()
    see(watch, path)
    assert watch.take() == frozenset()
    path.write_text("b")
    see(watch, path)
    path.write_text("c")
    see(watch, path)


def test_a_directory_made_anew_is_watched_though_it_may_have_the_same_inode(
    place: Path, watch: Watch
) -> None:
    directory = place / "ops" / "shards"
    for _ in range(3):
        shutil.rmtree(directory)
        directory.mkdir()
        see(watch, directory)
        wait_for(lambda: watch.take() == frozenset(), what="it to be armed")
        (directory / "new").touch()
        see(watch, directory / "new")


def test_waiting_costs_no_wakeup_and_taking_nothing_no_sleep(watch: Watch) -> None:
    def count() -> dict[str, int]:
        found = {}
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread of another test has just ended
                if "notify" in (task / "comm").read_text():
                    text = (task / "status").read_text()
                    found[task.name] = int(text.split("ctxt_switches:")[1].split()[0])
        return found

    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc")
    wait_for(lambda: watch.take() == frozenset() and len(count()) == 1, what="it alone to watch")
    (before,) = count().values()
    time.sleep(0.5)
    (after,) = count().values()
    assert after - before <= 1  # where it first came to sleep; the default would be 10
    began = time.process_time()
    for _ in range(100):
        watch.take()
    assert time.process_time() - began < 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell")
@pytest.mark.parametrize("watch", ["told"], indirect=True)
def test_what_was_not_taken_down_yet_when_it_was_asked_for_is_asked_for_again_however_late(
    place: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.watch._ASK_SECONDS", 0.05)

    def settle() -> bool:
        time.sleep(0.06)
        return watch.take() == frozenset() and not watch._has_changed()

    wait_for(settle, what="it to be at rest")
    path = place / "ops" / "shards" / "counter_1.db"
    path.touch()
    with monkeypatch.context() as patch:  # it has not come that far
        patch.setattr(Watch, "_drain", lambda _: frozenset())
        assert watch.take() == frozenset()
    time.sleep(0.1)  # and whoever asks was held up: stopped, or busy
    assert str(path) in (watch.take() or ())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell")
@pytest.mark.parametrize("watch", ["told"], indirect=True)
def test_after_a_rest_in_which_nobody_is_asked_everything_is_seen_again(
    place: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.watch._ASK_SECONDS", 0.3)
    asked = []
    drain = Watch._drain

    def count(self: Watch) -> frozenset[str] | None:
        asked.append(1)
        return drain(self)

    def is_asked() -> bool:
        asked.clear()
        watch.take()
        return bool(asked)

    monkeypatch.setattr(Watch, "_drain", count)
    shards, ops = place / "ops" / "shards", place / "ops"
    for touch in (
        lambda: (shards / "counter_1.db").write_bytes(b""),
        lambda: (shards / "counter_1.db").write_bytes(b"more"),
        lambda: (shards / "counter_1.db").chmod(0o600),
        lambda: (shards / "counter_1.db").rename(shards / "counter_2.db"),
        (ops / "beside").touch,
        lambda: (place / "file").write_text("b"),
        (place / "file").unlink,
        lambda: (place / "file").write_text("c"),
        lambda: shutil.rmtree(shards),
        shards.mkdir,
    ):
        is_whole = (place / "file").exists() and shards.exists()
        if is_whole:  # what is not there is looked for each time
            wait_for(lambda: not is_asked(), what="it to be at rest")
        touch()
        wait_for(lambda: watch.take() != frozenset(), what="the change")


def test_a_watch_that_cannot_be_made_is_told_once_and_looks_anyway(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import watchfiles._rust_notify

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(watchfiles._rust_notify, "RustNotify", fail)
    watch = Watch((place,))
    assert [watch.take() for _ in range(3)] == [None] * 3
    assert len([line for line in caplog.messages if "cannot watch" in line]) == 1
    monkeypatch.undo()
    assert watch.take() is None
    assert watch.take() == frozenset()
    watch.close()


def test_a_path_that_is_no_text_is_not_watched_but_looked_at(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = Path(os.fsdecode(os.fsencode(place) + b"/\xff"))
    odd.mkdir()
    watch = Watch((place, odd))
    assert [watch.take() for _ in range(3)] == [None] * 3
    (line,) = caplog.messages
    assert line.startswith("cannot watch for file events, the audit looks in its turn: not every")
    watch.close()
