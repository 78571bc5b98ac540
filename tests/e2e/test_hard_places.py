"""Closed descriptors, removed directories, clients that leave, disks that are full."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from stack import find_free_port, is_gone
from supervisor import kernel
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack


def shell(stack: Stack, command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell, as somebody would who closes descriptors."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=stack.cwd,
        env={**stack.env, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def is_locked(directory: Path) -> bool:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_lose_neither_lock_nor_port(stack: Stack, closed: str) -> None:
    done = shell(stack, f"ptsup start -d --port {stack.port} -s 'a=sleep 600' {closed}")
    assert done.returncode == 0, done
    assert is_locked(stack.run_dir)
    assert stack.session("a")["state"] == "running"
    stack.scrape()


@pytest.mark.parametrize("given", ["9>kept", "9>kept <&- >&- 2>&-"])
def test_what_the_starter_left_open_reaches_no_session(stack: Stack, given: str) -> None:
    done = shell(stack, f"ptsup start -d --port {stack.port} -s 'a=sleep 600' {given}")
    assert done.returncode == 0, done
    held = Path(f"/proc/{stack.session('a')['pid']}/fd").iterdir()
    log = str(stack.run_dir / "logs" / "a.log")
    links = [str(path.readlink()) for path in sorted(held, key=lambda path: int(path.name))]
    found = kernel.SpawnLock(stack.run_dir / "state", stack.read_state("a")["nonce"]).find()
    assert found is not None
    assert links == ["/dev/null", log, log, f"socket:[{found[0]}]"]


def test_a_client_that_leaves_costs_no_descriptor(stack: Stack) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        stack.start("-s", "a=sleep 600")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for _ in range(150):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(stack.run_dir / "control.sock"))
            client.sendall(b'{"v": 1, "verb": "wait", "names": ["a"]}\n')
    supervisor = psutil.Process(stack.status()["supervisor"]["pid"])
    wait_for(lambda: supervisor.num_fds() < 30, what="the descriptors to be given back")
    assert stack.session("a")["state"] == "running"


def test_a_removed_run_dir_makes_no_supervisor_destroy_another(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    old = stack.status()["supervisor"]["pid"]
    shutil.rmtree(stack.run_dir)
    port, shards = str(find_free_port()), "other/prom_multiproc"
    stack.run("start", "-d", "--port", port, "--multiproc-dir", shards, "-s", "n=sleep 600")
    os.kill(old, signal.SIGTERM)
    wait_for(partial(is_gone, old), what="the old supervisor to end")
    assert [s["name"] for s in stack.status()["sessions"]] == ["n"]
    assert stack.session("n")["state"] == "running"


def test_removed_logs_are_made_anew(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    shutil.rmtree(stack.run_dir / "logs")
    stack.run("restart", "a")
    assert (stack.run_dir / "logs" / "a.log").exists()


def test_a_fifo_for_a_log_holds_up_nobody(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    os.mkfifo(stack.run_dir / "logs" / "b.log")
    done = stack.start("-s", "b=sleep 600", code=1)
    assert "b.log: not a regular file" in done.stderr or "No such device" in done.stderr
    assert stack.run("logs", "b").stdout == ""
    assert stack.session("a")["state"] == "running"


def test_hostile_state_files_are_no_traceback(stack: Stack) -> None:
    states = stack.run_dir / "state"
    states.mkdir(parents=True)
    (states / "supervisor.json").write_text('{"multiproc_dir": ".", "pid": "1", "host": 7}')
    hostile = '{"name": "a", "pid": 1, "identity": "x", "incarnation": "x", "state": []}'
    stack.journal.write_text("\n".join((hostile, "[" * 100_000, "[]", '{"name": []}', "\0\x85")))
    for arguments in (["status"], ["status", "--json"]):
        stack.run(*arguments, code=4)
    stack.run("stop")
    stack.assert_nothing_left()


def test_a_fifo_in_place_of_the_journal_holds_nobody_up(stack: Stack) -> None:
    stack.journal.parent.mkdir(parents=True)
    (stack.journal.parent / "supervisor.json").write_text('{"pid": 1}')
    os.mkfifo(stack.journal)
    stack.run("status", code=4)
    stack.run("stop")
    stack.assert_nothing_left()


def test_a_shard_directory_that_may_no_longer_be_cleared_is_said_and_state_goes(
    stack: Stack,
) -> None:
    stack.start("-s", "a=sleep 600")
    stack.multiproc_dir.rename(stack.cwd / "elsewhere")
    stack.multiproc_dir.symlink_to(stack.cwd / "elsewhere")
    done = stack.run("stop", code=1)
    assert "cannot clear" in done.stderr
    stack.run("status", code=3)


def test_a_removed_working_directory_is_said(stack: Stack) -> None:
    gone = "mkdir gone && cd gone && rmdir ../gone && ptsup status"
    done = shell(stack, gone)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "ptsup: cannot find the working directory: it was removed",
    )


def test_a_full_output_is_no_traceback(stack: Stack) -> None:
    stack.start("-s", "a=sh -c 'echo hi; sleep 600'")
    for command in ("status", "--help", "logs"):
        done = shell(stack, f"ptsup {command} >/dev/full")
        assert (done.returncode, done.stderr) == (1, ""), command


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_too_few_descriptors_are_said_and_more_are_taken_where_that_may_be(stack: Stack) -> None:
    done = shell(stack, f"ulimit -n 20 && ptsup start -d --port {stack.port}")
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        [
            "ptsup: cannot start: only 20 files may be open",
            "  hint: have more: `ulimit -n 128`",
        ],
    )
    start = f"ptsup start -d --port {stack.port} -s 'a=sh -c \"ulimit -Sn; exec sleep 600\"'"
    assert shell(stack, f"ulimit -Sn 20 && {start}").returncode == 0
    stack.wait_for_log("a", "20\n")
    supervisor = stack.status()["supervisor"]["pid"]
    assert resource.prlimit(supervisor, resource.RLIMIT_NOFILE)[0] == 128
    assert stack.status()["drift"] == []


def test_an_output_nobody_reads_does_not_keep_a_stopped_start_alive(stack: Stack) -> None:
    running = stack.popen("start", "--port", str(stack.port), "-s", "noisy=yes")
    log = stack.run_dir / "logs" / "noisy.log"
    wait_for(lambda: log.exists() and log.stat().st_size > 1 << 20, what="a lot of output")
    running.send_signal(signal.SIGTERM)
    wait_for(lambda: running.poll() is not None, timeout_seconds=20, what="the end")
    running.communicate()
    stack.assert_nothing_left()


def test_term_to_a_detached_start_that_waits_stops_it_again(stack: Stack) -> None:
    poison = stack.cwd / "poison"
    poison.mkdir()
    (poison / "waitress.py").write_text("raise SystemExit(1)")
    arguments = ["start", "-d", "--port", str(stack.port), "-s", "a=sleep 600"]
    waiting = stack.popen(*arguments, PYTHONPATH=str(poison))
    wait_for(stack.journal.exists, what="the supervisor")
    waiting.send_signal(signal.SIGTERM)
    waiting.communicate(timeout=15)
    assert waiting.returncode == 130
    stack.assert_nothing_left()


def test_a_silent_supervisor_is_not_called_dead(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    pid = stack.status()["supervisor"]["pid"]
    (stack.run_dir / "control.sock").unlink()
    for arguments in (["status"], ["stop"], ["start", "-d", "-s", "b=sleep 1"]):
        done = stack.run(*arguments, code=4)
        assert f"the supervisor (pid {pid}) is there but does not answer" in done.stderr
    os.kill(pid, signal.SIGTERM)
    wait_for(partial(is_gone, pid))
    stack.assert_nothing_left()


def test_a_stopped_session_is_woken_to_be_stopped(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    os.kill(stack.session("a")["pid"], signal.SIGSTOP)
    stack.run("stop", "a", "--timeout", "30")
    assert stack.session("a")["exit"] == "SIGTERM"


def test_a_blocked_signal_mask_makes_no_session_deaf(stack: Stack) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        stack.start("-s", "a=sleep 600")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    stack.run("stop", "a", "--timeout", "30")
    assert stack.session("a")["exit"] == "SIGTERM"


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None,
    reason="needs root and unshare (util-linux)",
)
def test_on_a_full_disk_no_session_is_started_that_a_crash_would_lose(stack: Stack) -> None:
    stack.run_dir.mkdir(parents=True)
    mount = f"mount -t tmpfs -o size=512k,mode=700 tmpfs {stack.run_dir}"
    script = f"""
        set -e
        {mount}
        ptsup start -d --port {stack.port} -s 'a=sleep 600'
        dd if=/dev/zero of={stack.run_dir}/logs/fill.log bs=1k 2>/dev/null || true
        # What is left of the journal's last block may take a few.
        for attempt in $(seq 20); do ptsup restart a || {{ echo restart failed; break; }}; done
        supervisor=$(ptsup status | sed -n 's/^supervisor.* pid \\([0-9]*\\),.*/\\1/p')
        kill -9 $supervisor
        while kill -0 $supervisor 2>/dev/null; do sleep 0.05; done
        rm {stack.run_dir}/logs/fill.log
        ptsup stop --timeout 2
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
    assert "restart failed" in done.stdout
    wait_for(partial(lambda: not stack.processes()), what="everybody to be gone")
    with contextlib.suppress(OSError):
        shutil.rmtree(stack.run_dir)


COUNTER = """
import time
import telemetry

telemetry.ensure_registered()
for _ in range(5):
    telemetry.inc_risk_block(reason="runtime:halt")
time.sleep(600)
"""


def start_counters(stack: Stack, *names: str) -> None:
    """Start sessions that count to 5 each, and wait until the page has it all."""
    (stack.cwd / "counts.py").write_text(COUNTER)
    stack.start(*(word for name in names for word in ("-s", f"{name}={sys.executable} counts.py")))
    wait_for(lambda: count(stack) == 5 * len(names), what="everything to be counted")


def count(stack: Stack) -> float:
    return sum(stack.counters().values())


def kill(stack: Stack, name: str) -> None:
    os.kill(stack.session(name)["pid"], signal.SIGKILL)
    stack.wait_for_state(name, "exited")


def find_kinds(stack: Stack) -> set[str]:
    return {found["kind"] for found in stack.status()["drift"]}


def replace_metricsd(stack: Stack) -> None:
    before = stack.status()["metricsd"]["pid"]
    os.kill(before, signal.SIGKILL)

    def is_replaced() -> bool:
        metricsd = stack.status()["metricsd"]
        return bool(metricsd["pid"] != before and metricsd["state"] == "running")

    wait_for(is_replaced, what="another metricsd")


def test_a_base_that_is_cut_under_a_running_metricsd_loses_nothing(stack: Stack) -> None:
    start_counters(stack, "a", "b")
    kill(stack, "a")
    base = stack.multiproc_dir / ".retired" / "base"
    wait_for(lambda: count(stack) == 10 and base.exists(), what="the fold")
    size = base.stat().st_size
    os.truncate(base, size // 2)
    # A health probe is enough to have it looked at.
    wait_for(lambda: base.stat().st_size == size, what="the base to be written anew")
    replace_metricsd(stack)
    assert count(stack) == 10


def test_a_directory_moved_away_and_put_back_loses_nothing(stack: Stack) -> None:
    start_counters(stack, "a", "b")
    stack.multiproc_dir.rename(stack.cwd / "aside")
    assert count(stack) == 10
    kill(stack, "a")
    assert count(stack) == 10
    stack.multiproc_dir.mkdir()
    assert count(stack) == 10
    stack.run("restart", "b")
    wait_for(lambda: count(stack) == 15, what="what was counted in the new directory")


def test_a_retired_that_is_a_file_for_a_while_loses_nothing(stack: Stack) -> None:
    start_counters(stack, "a", "b")
    retired = stack.multiproc_dir / ".retired"
    shutil.rmtree(retired)
    retired.write_text("no directory")
    kill(stack, "a")
    assert count(stack) == 10
    replace_metricsd(stack)
    assert count(stack) == 10
    # Besides the kill of metricsd, which stays listed for a while.
    assert "claim-failed" in find_kinds(stack)
    retired.unlink()
    wait_for(
        lambda: "claim-failed" not in find_kinds(stack), timeout_seconds=25, what="the next sweep"
    )
    assert count(stack) == 10
    assert len({name.rpartition("_")[2] for name in stack.shards}) == 1


def test_the_page_says_when_the_supervisor_was_killed(stack: Stack) -> None:
    start_counters(stack, "a")
    assert stack.samples()["ptsup_supervisor_up", ()] == 1
    os.kill(stack.status()["supervisor"]["pid"], signal.SIGKILL)
    wait_for(lambda: stack.samples()["ptsup_supervisor_up", ()] == 0, what="that it is dead")
    assert not [series for series in stack.samples() if series[0].startswith("ptsup_session")]
    assert count(stack) == 5
