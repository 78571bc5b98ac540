"""What becomes of the counts of the dead: claimed, told when that fails, on the last page."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stack import SHADOW, child, is_gone, is_reaped
from telemetry.shards import RETIRED, render_shard
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stack import Stack

BLOCKS: Final = ("peaktrade_risk_blocks_total", (("reason", "runtime:halt"),))
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")


def plant(stack: Stack, pid: int, count: float) -> Path:
    """Put a shard into the directory, as if the process of that pid had counted."""
    key = json.dumps([BLOCKS[0][:-6], BLOCKS[0], {"reason": "runtime:halt"}, "Help."]).encode()
    path = stack.multiproc_dir / f"counter_{pid}.db"
    path.write_bytes(render_shard([(key, count, 0.0)]))
    return path


def find_value(page: str, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


# -- Claims ---------------------------------------------------------------------------------------


def test_whoever_died_is_out_of_the_flat_directory_and_on_the_page(stack: Stack) -> None:
    stack.start("-s", f"a={SHADOW} --speed 400", "-s", f"w={child('reaps_workers')}")
    stack.wait_for_log("w", "done")
    stack.wait_for_state("a", "exited", timeout=30)
    before = stack.counters()
    stack.run("stop", "a", "w")
    living = {process.pid for process in stack.processes()}
    # Its workers were reaped by their own parent: only a sweep finds what they left.
    wait_for(
        lambda: {int(name.split("_")[-1][:-3]) for name in stack.shards} <= living,
        timeout_seconds=17,
        what="the sweep",
    )
    assert stack.counters() == before
    assert before[BLOCKS] >= 3
    assert "orphan-shard" in stack.read_log("supervisor")
    assert stack.status()["shards"]["live"] == 0


def test_a_claim_that_fails_gives_the_pid_back_and_is_told_until_it_is_made_up_for(
    stack: Stack,
) -> None:
    stack.start("-s", "a=sleep 600")
    pid = stack.session("a")["pid"]
    shard = plant(stack, pid, 5)
    retired, aside = stack.multiproc_dir / RETIRED, stack.cwd / "aside"
    wait_for(retired.exists, what="metricsd to have made it")
    retired.rename(aside)
    retired.symlink_to(aside)  # a claim never leaves the directory by a link
    began = time.monotonic()
    stack.run("stop", "a")
    assert 0.9 < time.monotonic() - began < 5  # tried for a second, and no longer
    assert not psutil.pid_exists(pid)
    (found,) = stack.status()["drift"]
    assert (found["kind"], found["subject"]) == ("claim-failed", f"a (pid {pid})")
    assert ".retired: not a directory" in found["actual"]
    assert set(found) == {"kind", "subject", "expected", "actual", "hint", "since_seconds"}
    assert shard.exists()
    wait_for(
        lambda: find_value(stack.scrape(), "ptsup_drift_findings", kind="claim-failed") == 1,
        what="the finding on the page",
    )
    assert stack.counters()[BLOCKS] == 5

    retired.unlink()
    aside.rename(retired)
    wait_for(lambda: not stack.status()["drift"], timeout_seconds=17, what="the next sweep")
    assert not shard.exists()
    assert stack.counters()[BLOCKS] == 5
    wait_for(  # status knows it first
        lambda: find_value(stack.scrape(), "ptsup_drift_findings", kind="claim-failed") == 0,
        what="the finding off the page",
    )


@LINUX_ONLY
def test_an_orphan_whose_shards_cannot_be_claimed_is_reaped_all_the_same(stack: Stack) -> None:
    stack.start()
    retired, aside = stack.multiproc_dir / RETIRED, stack.cwd / "aside"
    wait_for(retired.exists, what="metricsd to have made it")
    retired.rename(aside)
    retired.symlink_to(aside)
    stack.start("-s", f"forks={child('double_forks')}")
    orphan = int(stack.wait_for_log("forks", "orphan").split()[-1])
    wait_for(partial(is_reaped, orphan), timeout_seconds=5, what="the orphan to be reaped")
    (found,) = stack.status()["drift"]
    assert (found["kind"], found["subject"]) == ("claim-failed", f"an orphan (pid {orphan})")
    assert stack.counters()[BLOCKS] == 1


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None,
    reason="needs root and unshare (util-linux)",
)
@pytest.mark.parametrize(
    ("options", "spoil", "mend"),
    [
        ("size=1m", "mount -o remount,ro {dir}", "mount -o remount,rw {dir}"),
        ("nr_inodes=40", "while touch {dir}/$((n++)).tmp; do :; done", "rm {dir}/*.tmp"),
    ],
    ids=["read-only", "full"],
)
def test_on_a_read_only_or_full_disk_sessions_end_and_their_counts_stay(
    stack: Stack, options: str, spoil: str, mend: str
) -> None:
    directory = stack.multiproc_dir
    directory.mkdir(parents=True)
    plant(stack, 7, 5).rename(stack.cwd / "shard")
    script = f"""
        set -e
        mount -t tmpfs -o {options},mode=700 tmpfs {directory}
        ptsup start -d --port {stack.port} -s 'a=sleep 600'
        pid=$(ptsup status --json | grep -o '"pid": [0-9]*, "incarnation"' | grep -o '[0-9]*')
        cp shard {directory}/counter_$pid.db
        {spoil.format(dir=directory)} 2>/dev/null
        timeout 20 ptsup stop a
        ptsup status --json | grep -o '"kind": "claim-failed"'
        curl -sf localhost:{stack.port}/metrics | grep '^peaktrade_risk_blocks_total'
        {mend.format(dir=directory)}
        ptsup stop
    """
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script],
        cwd=stack.cwd,
        env=stack.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "mount" in done.stderr and "permission denied" in done.stderr.lower():
        pytest.skip("may not mount a tmpfs here")
    assert done.returncode == 0, done
    assert '"kind": "claim-failed"' in done.stdout
    assert 'peaktrade_risk_blocks_total{reason="runtime:halt"} 5.0' in done.stdout


def test_status_counts_the_shards_of_the_living_of_the_dead_and_the_unreadable(
    stack: Stack,
) -> None:
    stack.start("-s", "a=sleep 600")
    pid = stack.session("a")["pid"]
    plant(stack, pid, 5)
    (stack.multiproc_dir / f"histogram_{pid}.db").write_bytes(b"garbage!" * 8)

    def count() -> tuple[int, int, int]:
        shards = stack.status()["shards"]
        return shards["live"], shards["retired"], shards["unreadable"]

    def is_unreadable() -> bool:
        return "counter" in stack.scrape() and count() == (2, 0, 1)

    wait_for(is_unreadable, what="the health document")
    assert stack.session("a")["shards"] == 2
    assert stack.status()["shards"]["bytes"] > 64
    # Without a supervisor the document says the same of the files, and nothing of metricsd.
    supervisor = stack.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(partial(is_gone, supervisor))
    assert stack.status(code=4)["shards"]["live"] == 2
    assert stack.status(code=4)["shards"]["unreadable"] == 0


def test_keep_shards_keeps_the_claims_too_and_stop_alone_keeps_nothing(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    plant(stack, stack.session("a")["pid"], 5)
    stack.run("stop", "--keep-shards")
    retired = stack.multiproc_dir / RETIRED
    assert not stack.shards
    kept = [path for path in retired.rglob("*") if path.is_file()]
    assert kept, "neither a claim nor a base"

    stack.start("-s", "a=sleep 600")
    plant(stack, stack.session("a")["pid"], 5)
    (retired / "bad").mkdir(parents=True, exist_ok=True)
    (retired / "bad" / "1.claim-1.empty.counter_9.db").touch()
    for name in ("base", "base.tmp"):
        (retired / name).touch()
    (retired / "claim-700").mkdir()
    (retired / "claim-700" / "counter_9.db").touch()
    (retired / "open-700").mkdir()
    (retired / "open-700" / "counter_8.db").touch()
    stack.run("stop")
    assert list(stack.multiproc_dir.iterdir()) == []
    stack.assert_nothing_left()


def test_after_a_crash_what_was_left_open_is_completed(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    status = stack.status()
    pid = stack.session("a")["pid"]
    opened = stack.multiproc_dir / RETIRED / "open-1"
    opened.mkdir(parents=True)
    plant(stack, 2_000_000_001, 2).rename(opened / "counter_2000000001.db")
    plant(stack, pid, 3)
    for victim in (status["supervisor"]["pid"], status["metricsd"]["pid"], pid):
        os.kill(victim, signal.SIGKILL)
        wait_for(partial(is_gone, victim))
    stack.start()
    assert not opened.exists()
    assert not stack.shards
    assert stack.counters()[BLOCKS] == 5


# -- The last page --------------------------------------------------------------------------------


@contextlib.contextmanager
def scraped(port: int) -> Iterator[list[str]]:
    """Scrape as a Prometheus would, several times a second; gives the pages that came."""
    pages: list[str] = []
    ended = threading.Event()

    def scrape() -> None:
        headers = {"X-Prometheus-Scrape-Timeout-Seconds": "5"}
        while not ended.wait(0.2):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/metrics", headers=headers)
                response = connection.getresponse()
                body = response.read().decode()
                if response.status == 200:
                    pages.append(body)
            connection.close()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield pages
    finally:
        ended.set()
        thread.join()


@LINUX_ONLY
def test_the_last_page_has_the_last_counts_of_everybody_wherever_it_hid(stack: Stack) -> None:
    stack.start("-s", f"e={child('counts_at_its_end')}", "-s", f"w={child('reaps_workers')}")
    stack.wait_for_log("e", "escaped")
    stack.wait_for_log("w", "done")
    assert stack.counters()[BLOCKS] == 4
    with scraped(stack.port) as pages:
        wait_for(lambda: pages, what="a scrape")
        done = stack.run("stop")
    assert "Prometheus scraped the last totals" in done.stdout + done.stderr
    assert find_value(pages[-1], BLOCKS[0], reason="runtime:halt") == 5
    stack.assert_nothing_left()


# -- metricsd hangs -------------------------------------------------------------------------------


def find_other(stack: Stack, pid: int) -> int | None:
    """Find the metricsd that was spawned after the one of this pid."""
    recorded: int | None = stack.read_state("metricsd")["pid"]
    return None if recorded == pid else recorded


def test_a_hang_is_noticed_and_replaced_in_three_seconds_its_death_confirmed(
    stack: Stack,
) -> None:
    stack.start()
    for _ in range(2):
        hung = stack.read_state("metricsd")["pid"]
        wait_for(lambda: stack.read_state("metricsd")["state"] == "running")
        os.kill(hung, signal.SIGSTOP)
        began = time.monotonic()
        new = wait_for(partial(find_other, stack, hung), timeout_seconds=8, what="another metricsd")
        took = time.monotonic() - began
        assert not psutil.pid_exists(hung), "the next one was spawned beside it"
        assert new is not None
        assert psutil.pid_exists(new)
        assert took < 3.0, f"replaced after {took:.2f} s"
        stack.scrape()


# -- The supervisor's part of the page ------------------------------------------------------------


def test_the_page_tells_of_the_sessions_while_their_supervisor_lives(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600", "-s", "done=true")
    path = stack.run_dir / "metrics.prom"
    assert path.stat().st_mode & 0o777 == 0o600

    def has(name: str, value: float | None, **labels: str) -> None:
        wait_for(
            lambda: find_value(stack.scrape(), name, **labels) == value,
            what=f"{name} {labels} {value}",
        )

    has("ptsup_session_up", 1, session="a")
    has("ptsup_session_up", 0, session="done")
    has("ptsup_sessions", 1, state="exited")
    has("ptsup_sessions", 0, state="fatal")
    stack.run("restart", "a")
    has("ptsup_session_restarts_total", 1, session="a")
    has("ptsup_supervisor_up", 1)
    stack.run("stop", "a")
    has("ptsup_session_up", 0, session="a")
    has("ptsup_sessions", 1, state="stopped")

    supervisor = stack.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(partial(is_gone, supervisor))
    has("ptsup_supervisor_up", 0)
    has("ptsup_session_up", None, session="a")
    stack.run("stop", "--timeout", "1")
    assert not path.exists()
    stack.assert_nothing_left()


def test_a_storm_of_changes_ends_with_the_last_state_on_the_page(stack: Stack) -> None:
    flags = [word for number in range(40) for word in ("-s", f"s{number}=true")]
    stack.start(*flags)
    wait_for(
        lambda: find_value(stack.scrape(), "ptsup_sessions", state="exited") == 40,
        timeout_seconds=5,
        what="forty exits on the page",
    )
