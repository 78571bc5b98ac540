"""Each kind of drift, made for real, seen in time, and cleared when it is mended.

What the file system tells is seen with the ordinary interval of 15 s, so it is no audit that
finds it; the rest with an interval of a second, which is held to.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from stack import SHADOW, build_environment
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stack import Stack

CHILDREN: Final = Path(__file__).resolve().parent.parent / "children"
# How soon a file event is seen.
EVENT_SECONDS: Final = 2.0
# One audit interval of a second; a turn comes every second, and looks may take a while here.
AUDIT_SECONDS: Final = 2.5
EAGER: Final = """
audit_interval_seconds = 1
missing_shard_seconds = 3
stale_values_seconds = 3
"""


def drifting(stack: Stack, what: str) -> str:
    return f"{sys.executable} {CHILDREN / 'drifts.py'} {stack.cwd} {what}"


def start_eager(stack: Stack, *arguments: str) -> None:
    """Start with an audit every second."""
    (stack.cwd / "eager.toml").write_text(EAGER)
    stack.start("-f", "eager.toml", *arguments)


def find(stack: Stack, kind: str) -> list[dict[str, Any]]:
    return [found for found in stack.status()["drift"] if found["kind"] == kind]


def see(stack: Stack, kind: str, *, within: float, since: float | None = None) -> dict[str, Any]:
    """Wait for a finding, and hold how long after its cause it was found."""
    since = time.monotonic() if since is None else since
    (found, *_) = wait_for(lambda: find(stack, kind), timeout_seconds=30, what=kind)
    took = time.monotonic() - found["since_seconds"] - since
    assert took <= within, f"{kind} took {took:.2f} s"
    assert set(found) == {"kind", "subject", "expected", "actual", "hint", "since_seconds"}
    return found


def see_cleared(stack: Stack, kind: str) -> None:
    wait_for(lambda: not find(stack, kind), timeout_seconds=30, what=f"{kind} to clear")


def read_log(stack: Stack) -> str:
    return (stack.run_dir / "logs" / "supervisor.log").read_text()


def wait_until_ready(stack: Stack, name: str) -> None:
    path = stack.run_dir / "logs" / f"{name}.log"
    wait_for(lambda: path.exists() and "ready" in path.read_text(), what=f"{name} to be ready")


def find_metric(stack: Stack, kind: str) -> float:
    return stack.samples()["ptsup_drift_findings", (("kind", kind),)]


def write_foreign(stack: Stack, label: str) -> subprocess.Popen[str]:
    """Start a process that is none of ours, and counts with this label in our directory."""
    source = (
        "import sys, prometheus_client as p;"
        f"p.Counter('foreign_{label}', 'F.', ['{label}']).labels('x').inc();"
        "print('ready', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", source],
        env=build_environment(PROMETHEUS_MULTIPROC_DIR=str(stack.multiproc_dir)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# -- What the file system tells -------------------------------------------------------------------


@pytest.fixture
def running(stack: Stack) -> Iterator[Stack]:
    """One session that counts, the audit at its ordinary interval, its first look done."""
    stack.start("-s", f"a={SHADOW} --loop")
    wait_for(lambda: len(stack.shards) == 2, what="its shards")
    wait_for(lambda: json.loads(stack.run("drift", "--json").stdout)["drift"] == [])
    yield stack
    assert "Traceback" not in read_log(stack)


def test_a_file_among_the_shards(running: Stack) -> None:
    path = running.multiproc_dir / "notes\x1b[31m.txt"
    path.write_text("remember")
    found = see(running, "unexpected-file", within=EVENT_SECONDS)
    assert found["subject"] == "notes\\x1b[31m.txt"
    wait_for(lambda: find_metric(running, "unexpected-file") == 1, what="it on the page")
    table = running.run("status").stdout
    assert "unexpected-file: notes\\x1b[31m.txt: a file that is no shard" in table
    told = running.run("drift", code=5)
    assert "expected  nothing but shards" in told.stdout
    assert told.stderr.startswith("ptsup: not as it should be: 1 finding\n")
    document = json.loads(running.run("drift", "--json", code=5).stdout)
    assert document["schema"] == "ptsup.drift/1"
    assert [f["kind"] for f in document["drift"]] == ["unexpected-file"]
    path.unlink()
    see_cleared(running, "unexpected-file")
    assert running.run("drift").stdout == "nothing: all is as planned\n"
    wait_for(lambda: find_metric(running, "unexpected-file") == 0, what="none on the page")
    lines = [line for line in read_log(running).splitlines() if "unexpected-file" in line]
    assert ["WARNING" in line for line in lines] == [True, False]  # once when it came, once when
    assert "cleared" in lines[1]


def test_a_removed_shard_and_a_damaged_one(running: Stack) -> None:
    pid = running.session("a")["pid"]
    (running.multiproc_dir / f"gauge_livemax_{pid}.db").unlink()
    found = see(running, "unlinked-shard", within=EVENT_SECONDS)
    assert found["subject"] == f"a (pid {pid})"
    shard = running.multiproc_dir / f"counter_{pid}.db"
    with shard.open("r+b") as file:
        file.write(b"\xff\xff\xff\x7f")  # more than it could ever use
    found = see(running, "unreadable-shard", within=EVENT_SECONDS)
    assert found["subject"] == shard.name
    assert "the session a" in found["actual"]
    assert running.status()["shards"]["live"] == 1
    running.run("restart", "a")  # what both hints say
    see_cleared(running, "unlinked-shard")
    see_cleared(running, "unreadable-shard")


def test_a_directory_that_is_gone_then_another_then_itself_again(running: Stack) -> None:
    aside = running.cwd / "aside"
    running.multiproc_dir.rename(aside)
    found = see(running, "directory-missing", within=EVENT_SECONDS)
    assert found["subject"] == str(running.multiproc_dir)
    see(running, "unlinked-shard", within=EVENT_SECONDS)
    running.multiproc_dir.mkdir(mode=0o700)
    see(running, "directory-replaced", within=EVENT_SECONDS)
    see_cleared(running, "directory-missing")
    shutil.rmtree(running.multiproc_dir)
    aside.rename(running.multiproc_dir)
    see_cleared(running, "directory-replaced")
    see_cleared(running, "directory-missing")
    see_cleared(running, "unlinked-shard")


def test_a_stranger_that_writes_here_and_what_it_leaves(running: Stack) -> None:
    writer = write_foreign(running, "symbol")
    try:
        found = see(running, "foreign-shard", within=EVENT_SECONDS)
        assert found["subject"] == f"pid {writer.pid}"
        assert "prometheus_client" in found["actual"]
    finally:
        end(writer)
    # Its death raises no file event; `ptsup drift` looks, so nobody has to wait for the audit.
    running.run("drift", code=5)
    see_cleared(running, "foreign-shard")
    (orphan,) = find(running, "orphan-shard")
    assert orphan["subject"] == f"pid {writer.pid}"
    assert not [name for name in running.shards if str(writer.pid) in name]
    # What ptsup mended itself stays listed for a minute: tests/core/test_drift.py ends it.


def test_a_dead_pids_shard_that_comes_from_nowhere(running: Stack) -> None:
    shard = running.multiproc_dir / f"counter_{running.session('a')['pid']}.db"
    (running.multiproc_dir / "counter_2147483646.db").write_bytes(shard.read_bytes())
    found = see(running, "orphan-shard", within=EVENT_SECONDS)
    assert found["subject"] == "pid 2147483646"


def test_a_configuration_file_that_changes(stack: Stack) -> None:
    path = stack.cwd / "ptsup.toml"
    text = f"port = {stack.port}\n"
    path.write_text(text)
    stack.run("start", "-d")
    stack.run("drift")
    path.write_text(text + "\n# a thought\n")
    found = see(stack, "config-changed", within=EVENT_SECONDS)
    assert found["subject"] == str(path)
    # As most editors save: another file takes its name.
    (stack.cwd / "new").write_text(text)
    (stack.cwd / "new").replace(path)
    see_cleared(stack, "config-changed")
    path.write_text(text + "host = '127.0.0.1'\n")
    see(stack, "config-changed", within=EVENT_SECONDS)
    path.unlink()
    wait_for(lambda: "No such file" in find(stack, "config-changed")[0]["actual"], what="it gone")
    path.write_text(text)
    see_cleared(stack, "config-changed")


# -- What has to be looked for --------------------------------------------------------------------


def test_sessions_that_stay_silent_and_values_that_do_not_move(stack: Stack) -> None:
    # Alone at first: nothing but time tells of it.
    start_eager(stack, "-s", f"quiet={drifting(stack, 'silent')}")
    found = see(stack, "missing-shard", within=AUDIT_SECONDS + 3)
    assert found["subject"] == "quiet"
    stack.start("-s", f"still={drifting(stack, 'stale')}")
    wait_until_ready(stack, "still")  # it has counted
    found = see(stack, "stale-values", within=AUDIT_SECONDS + 3 + 1)
    assert found["subject"] == "still"
    assert {f["subject"] for f in stack.status()["drift"]} == {"quiet", "still"}
    (stack.cwd / "mend").touch()
    see_cleared(stack, "missing-shard")
    see_cleared(stack, "stale-values")


def test_an_environment_that_is_not_the_planned_one(stack: Stack) -> None:
    script = stack.cwd / "wrap.sh"
    script.write_text("exec env -u PROMETHEUS_MULTIPROC_DIR PEAKTRADE_METRICS_MODE=A sleep 600\n")
    start_eager(stack, "-s", f"a=sh {script}", "-s", f"b={SHADOW} --loop")
    found = see(stack, "env-mismatch", within=AUDIT_SECONDS)
    assert found["subject"] == f"a (pid {stack.session('a')['pid']})"
    assert "PEAKTRADE_METRICS_MODE=A" in found["actual"]
    assert "PROMETHEUS_MULTIPROC_DIR is not set" in found["actual"]
    script.write_text("exec sleep 600\n")
    stack.run("restart", "a")
    see_cleared(stack, "env-mismatch")


def test_a_session_that_listens_and_somebody_at_our_port(stack: Stack) -> None:
    start_eager(stack, "--host", "127.0.0.1", "-s", f"a={drifting(stack, 'listens')}")
    wait_until_ready(stack, "a")
    found = see(stack, "session-listens", within=AUDIT_SECONDS)
    assert found["subject"] == f"a on port {(stack.cwd / 'port').read_text()}"
    assert not find(stack, "port-conflict")
    with socket.create_server(("127.0.0.2", stack.port)):
        found = see(stack, "port-conflict", within=AUDIT_SECONDS)
        assert found["subject"] == f"127.0.0.2:{stack.port}"
        assert f"(pid {os.getpid()})" in found["actual"]
    see_cleared(stack, "port-conflict")
    (stack.cwd / "mend").touch()
    see_cleared(stack, "session-listens")


def test_a_metricsd_that_hangs_and_one_that_dies(stack: Stack) -> None:
    start_eager(stack)
    pid = stack.status()["metricsd"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    found = see(stack, "metricsd-unhealthy", within=3.0)
    assert "did not answer within" in found["actual"]
    wait_for(lambda: stack.status()["metricsd"]["state"] == "running", what="the next metricsd")
    os.kill(stack.status()["metricsd"]["pid"], signal.SIGKILL)
    wait_for(lambda: "2 times" in find(stack, "metricsd-unhealthy")[0]["actual"], what="both told")
    assert "it ended (SIGKILL)" in find(stack, "metricsd-unhealthy")[0]["actual"]
    stack.run("stop")
    assert "Traceback" not in read_log(stack)


# -- Labels that are not allowed ------------------------------------------------------------------


def test_forbidden_labels_are_kept_off_the_page_counted_and_named_whoever_writes_them(
    stack: Stack,
) -> None:
    start_eager(stack, "-s", f"a={drifting(stack, 'labels')}")
    wait_until_ready(stack, "a")
    since = time.monotonic()
    pid = stack.session("a")["pid"]
    # An exporter that was started from a shell with the variable set, and a stranger: the same.
    writers = [write_foreign(stack, "symbol"), write_foreign(stack, "run_id")]
    try:
        found = see(stack, "label-violation", within=AUDIT_SECONDS + 1, since=since)
        wait_for(lambda: len(find(stack, "label-violation")) == 4, what="all four")
        told = {f["subject"]: f for f in find(stack, "label-violation")}
        assert f"drifting_trades of a (pid {pid})" in told
        found = told[f"drifting_runs of a (pid {pid})"]
        assert f"counter_{pid}.db" in found["actual"]
        assert "'run_id'" in found["actual"]
        for writer, label in zip(writers, ("symbol", "run_id"), strict=True):
            (subject,) = [s for s in told if s.startswith(f"foreign_{label} of pid {writer.pid}")]
            assert f"counter_{writer.pid}.db" in told[subject]["actual"]
        page = stack.scrape()
        assert not [name for name in ("drifting_", "foreign_", "symbol", "run_id") if name in page]
        assert stack.samples()["ptsup_label_violations_total", ()] == 4
        # Its counts are the base's now; whose they were is known for a while.
        stack.run("stop", "a")
        subject = "drifting_trades of a, which has ended"
        wait_for(
            lambda: subject in [f["subject"] for f in find(stack, "label-violation")],
            what="the dead one named",
        )
    finally:
        for writer in writers:
            end(writer)
    assert "run_id" not in stack.scrape()


# -- Where nobody looks ---------------------------------------------------------------------------


def test_what_metricsd_says_is_told_in_the_log_though_nobody_asks(stack: Stack) -> None:
    (stack.cwd / "lazy.toml").write_text("audit_interval_seconds = 3600\n")
    stack.start("-f", "lazy.toml")
    writer = write_foreign(stack, "symbol")
    log = stack.run_dir / "logs" / "supervisor.log"
    try:
        wait_for(
            lambda: "foreign-shard" in log.read_text() and time.time() - log.stat().st_mtime > 3,
            what="the audit to be at rest again",
        )
        assert "label-violation" not in log.read_text()
        stack.scrape()  # metricsd reads the shard, and has something to say
        wait_for(lambda: "label-violation" in log.read_text(), what="the line")
    finally:
        end(writer)


def test_drift_says_when_nobody_looks(stack: Stack) -> None:
    assert stack.run("drift", code=3).stderr.startswith("ptsup: nothing runs in ")
    stack.start("-s", "a=sleep 600")
    os.kill(stack.status()["supervisor"]["pid"], signal.SIGKILL)
    told = wait_for(lambda: stack.run("drift", code=4), what="the supervisor to be dead")
    assert told.stderr.startswith("ptsup: cannot look for drift: the supervisor")
    assert told.stdout == ""
    stack.start()
    stack.run("drift", "--json")
    stack.run("stop", "--timeout", "2")
    stack.assert_nothing_left()
