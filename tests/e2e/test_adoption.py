"""`kill -9` of the supervisor ends nothing else; the next start goes on with what lives."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from stack import SHADOW, Stack, child, drop_zeros, find_free_port, is_gone, read_ledgers
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_for(partial(is_gone, pid), what=f"the end of {pid}")


def kill_supervisor(stack: Stack) -> dict[str, Any]:
    status = stack.status()
    kill(status["supervisor"]["pid"])
    return status


def find_pids(status: dict[str, Any]) -> dict[str, int]:
    pids = {s["name"]: s["pid"] for s in status["sessions"]}
    return {**pids, "metricsd": status["metricsd"]["pid"]}


def find_by_session(stack: Stack) -> dict[str, set[int]]:
    """Find whoever lives under the name of a session of this stack, whatever ptsup knows."""
    found: dict[str, set[int]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environ = process.environ()
            if environ.get("PROMETHEUS_MULTIPROC_DIR", "").startswith(f"{stack.cwd}/"):
                found.setdefault(environ["PTSUP_SESSION"], set()).add(process.pid)
    return found


def change_state(stack: Stack, name: str, **changes: Any) -> None:
    with stack.journal.open("a") as journal:
        journal.write("\n" + json.dumps({"name": name, **changes}))


# -- Whoever lives goes on ------------------------------------------------------------------------


def test_the_same_processes_port_and_counts_go_on_under_the_next_supervisor(stack: Stack) -> None:
    ledger = stack.cwd / "a.ledger"
    stack.start("-s", f"a={SHADOW} --loop --speed 100 --ledger {ledger}", "-s", "b=sleep 600")
    stack.run("restart", "b")
    wait_for(lambda: ledger.exists() and len(read_ledgers(ledger)) > 8, what="some counts")
    before = kill_supervisor(stack)
    assert "ptsup_supervisor_up 0.0" in stack.scrape()

    said = stack.run("start", "-d")  # the port is known from the run directory
    assert f"(pid {before['metricsd']['pid']})" in said.stdout
    after = stack.status()
    assert find_pids(after) == find_pids(before)
    assert [(s["incarnation"], s["restarts"]) for s in after["sessions"]] == [(1, 0), (2, 1)]
    assert after["metricsd"]["restarts"] == 0
    assert after["sessions"][0]["uptime_seconds"] > before["sessions"][0]["uptime_seconds"]
    assert after["drift"] == []
    assert after["port"]["port"] == stack.port
    wait_for(lambda: "ptsup_supervisor_up 1.0" in stack.scrape(), what="the supervisor's part")
    # The socket is open in both again: a dead metricsd is replaced, and no scrape fails.
    os.kill(before["metricsd"]["pid"], signal.SIGKILL)
    stack.scrape()
    stack.run("stop", "a")
    assert drop_zeros(stack.counters()) == read_ledgers(ledger)
    stack.run("stop")
    stack.assert_nothing_left()


def test_more_are_adopted_than_descriptors_were_allowed(stack: Stack, tmp_path: Path) -> None:
    real, stack.bin = stack.bin, tmp_path / "bin"
    stack.bin.mkdir()

    def limit(*options: str) -> None:
        program = stack.bin / "ptsup"
        program.write_text(f'#!/bin/sh\nulimit {" ".join(options)}\nexec {real}/ptsup "$@"\n')
        program.chmod(0o755)

    limit("-S", "-n", "64")
    (stack.cwd / "ptsup.toml").write_text('[session.s]\ncommand = "sleep 600"\ncount = 70\n')
    stack.start()
    before = find_pids(kill_supervisor(stack))
    limit("-n", "64")
    refused = stack.start(code=1)
    assert "71 processes live on" in refused.stderr
    assert "ulimit -n" in refused.stderr
    limit("-S", "-n", "64")
    stack.start()
    after = stack.status()
    assert find_pids(after) == before
    assert {session["state"] for session in after["sessions"]} == {"running"}
    assert after["drift"] == []
    stack.run("restart", "s-1")
    assert [
        read_descriptor_limit(pid) for pid in (before["s-2"], find_pids(stack.status())["s-1"])
    ] == [64, 64]
    stack.run("stop")
    stack.assert_nothing_left()


def read_descriptor_limit(pid: int) -> int:
    text = Path(f"/proc/{pid}/limits").read_text()
    return next(int(line.split()[3]) for line in text.splitlines() if "open files" in line)


def test_what_it_is_given_is_added_and_who_runs_already_is_not_started_twice(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600", "-s", "b=sleep 601")
    before = find_pids(kill_supervisor(stack))
    said = stack.start("-s", "a=sleep 600", "-s", "b=sleep 602", "-s", "c=sleep 603")
    assert "a (pid" not in said.stderr
    assert f"b (pid {before['b']}) runs already; its new command counts" in said.stderr
    after = find_pids(stack.status())
    assert {**after, "c": 0} == {**before, "c": 0}
    assert after["c"]
    stack.run("restart", "b")
    assert psutil.Process(stack.session("b")["pid"]).cmdline() == ["sleep", "602"]


def test_one_that_was_ready_goes_on_though_it_does_not_answer_again(stack: Stack) -> None:
    port, file = find_free_port(), stack.cwd / "ptsup.toml"
    program = (  # it answers one question, and then none: busy, say
        f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); "
        "s.accept(); s.close(); time.sleep(600)"
    )
    file.write_text(
        f'[session.a]\ncommand = ["{sys.executable}", "-c", "{program}"]\n'
        f"ready = {{ port = {port}, timeout_seconds = 10 }}\n"
    )
    stack.start("-f", str(file))
    stack.wait_for_state("a", "running")
    before = find_pids(kill_supervisor(stack))
    stack.start("-f", str(file))
    assert stack.session("a")["state"] == "running"
    assert find_pids(stack.status()) == before


def test_a_crash_in_the_midst_of_a_start_leaves_nobody_out(stack: Stack) -> None:
    stack.start()
    names = [f"s{number}" for number in range(100)]  # as many as are spawned in a turn
    file = stack.cwd / "many.toml"
    file.write_text("".join(f"[session.{name}]\ncommand = 'sleep 600'\n" for name in names))
    supervisor = stack.status()["supervisor"]["pid"]
    with stack.popen("start", "-d", "-f", str(file)) as start:
        wait_for(lambda: stack.read_state(names[20]).get("nonce"), what="the first intents")
        os.kill(supervisor, signal.SIGKILL)
        start.communicate()
    assert start.returncode != 0
    stack.run("start", "-d")
    found = {session["name"]: session for session in stack.status()["sessions"]}
    assert list(found) == names
    living = [name for name in names if found[name]["state"] == "running"]
    # One may have been about to be spawned; nobody can know that it was not.
    assert len(living) >= len(names) - 1
    assert all(found[name]["exit"] == "unknown" for name in set(names) - set(living))
    assert find_by_session(stack) == {name: {found[name]["pid"]} for name in living}


def test_a_crash_after_a_crash_changes_nothing(stack: Stack) -> None:
    stack.start("-s", "c=sleep 600", "-s", "a=sleep 600")
    stack.start("-s", "b=sleep 600")
    before = find_pids(kill_supervisor(stack))
    for _ in range(3):
        stack.run("start", "-d")
        assert find_pids(kill_supervisor(stack)) == before
    # In the order in which they were added, whether a supervisor lives or not.
    assert list(before) == ["c", "a", "b", "metricsd"]
    assert list(find_pids(stack.status(code=4))) == list(before)
    stack.start("-s", "d=sleep 600", "-s", "0=sleep 600")
    assert list(find_pids(stack.status())) == ["c", "a", "b", "d", "0", "metricsd"]
    stack.run("stop", "--timeout", "2")
    stack.assert_nothing_left()


@pytest.mark.parametrize("command", ["sleep 600", "env -i sleep 600"])
@pytest.mark.parametrize("adopting", [True, False])
def test_a_child_whose_pid_nobody_came_to_write_down_is_found(
    stack: Stack, command: str, *, adopting: bool
) -> None:
    # By its nonce; and one without any environment by the lock that it inherited.
    stack.start("-s", f"a={command}")
    before = kill_supervisor(stack)
    for name in ("a", "metricsd"):
        change_state(stack, name, pid=None, identity=None, state="starting")
    if adopting:
        stack.run("start", "-d")
        assert find_pids(stack.status()) == find_pids(before)
    elif "env" not in command:
        assert find_pids(stack.status(code=4)) == find_pids(before)
    stack.run("stop", "--timeout", "2")
    assert is_gone(find_pids(before)["a"])
    stack.assert_nothing_left()


def test_an_intent_that_led_to_nobody_is_an_exit_of_unknown_status(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600", "-s", "b=sleep 600")
    before = kill_supervisor(stack)
    for name in ("a", "b"):
        kill(find_pids(before)[name])
        changes = dict.fromkeys(["pid", "identity", "started_at", "ready_at"])
        change_state(stack, name, **changes, state="starting")
    change_state(stack, "b", settings={"restart": "always"})
    stack.run("start", "-d")
    a = stack.session("a")
    assert (a["state"], a["returncode"], a["exit"]) == ("exited", None, "unknown")
    assert stack.wait_for_state("b", "running")["incarnation"] == 2


def test_what_was_about_to_be_spawned_is_spawned(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    before = kill_supervisor(stack)
    kill(find_pids(before)["a"])
    change_state(stack, "a", pid=None, nonce="", state="starting", incarnation=7)
    stack.run("start", "-d")
    assert stack.wait_for_state("a", "running")["incarnation"] == 7


# -- Whoever died ---------------------------------------------------------------------------------


def test_who_died_while_no_supervisor_lived_ended_in_a_way_nobody_knows(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600", "-s", "n=sleep 600", "--restart", "on-failure")
    stack.start("-s", "w=sleep 600", "--restart", "always")
    stack.start("-s", "done=sh -c 'exit 3'")
    stack.wait_for_state("done", "exited")
    before = kill_supervisor(stack)
    kill(find_pids(before)["a"])
    kill(find_pids(before)["w"])
    stack.run("start", "-d")
    a = stack.session("a")
    assert (a["state"], a["returncode"], a["exit"]) == ("exited", None, "unknown")
    assert stack.session("done")["exit"] == "3"  # that was known
    assert stack.session("n")["pid"] == find_pids(before)["n"]
    w = stack.wait_for_state("w", "running")
    assert (w["incarnation"], w["restarts"]) == (2, 1)
    assert w["pid"] != find_pids(before)["w"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells others how one ended")
def test_how_an_adopted_session_ends_is_told_by_the_kernel(stack: Stack) -> None:
    ends = {"3": "exit 3", "0": "exit 0", "SIGKILL": "kill -9 $$"}
    until = "while [ ! -e end ]; do sleep 0.05; done"
    stack.start(
        *(w for word, end in ends.items() for w in ("-s", f"{word}=sh -c '{until}; {end}'"))
    )
    kill_supervisor(stack)
    stack.run("start", "-d")
    (stack.cwd / "end").touch()
    for word in ends:
        assert stack.wait_for_state(word, "exited")["exit"] in {word, "unknown"}
        if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15):
            assert stack.session(word)["exit"] == word


def test_an_adopted_session_that_dies_is_restarted(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600", "--restart", "always")
    before = find_pids(kill_supervisor(stack))
    stack.run("start", "-d")
    kill(before["a"])
    wait_for(lambda: stack.session("a")["incarnation"] == 2, what="the restart")
    a = stack.wait_for_state("a", "running")
    assert not is_gone(a["pid"])
    assert a["log"].endswith("a.log")
    os.kill(a["pid"], signal.SIGKILL)  # and this one is a child again
    wait_for(lambda: stack.session("a")["incarnation"] == 3, what="the next restart")


def test_what_an_adopted_leader_leaves_is_gone_before_its_next_incarnation(stack: Stack) -> None:
    stack.start("-s", f"e={child('escapes', '--deaf')}", "--restart", "always")
    escaped = int(stack.wait_for_log("e", "escaped").split()[-1])
    before = find_pids(kill_supervisor(stack))
    change_state(stack, "e", settings={"restart": "always", "stop_timeout_seconds": 1})
    stack.run("start", "-d")
    kill(before["e"])
    wait_for(lambda: stack.session("e")["incarnation"] == 2, what="the restart")
    assert is_gone(escaped)


def test_what_the_dead_left_is_gone_after_a_takeover(stack: Stack) -> None:
    stack.start("-s", f"w={child('double_forks')}", "-s", f"e={child('escapes')}")
    escaped = int(stack.wait_for_log("e", "escaped").split()[-1])
    before = kill_supervisor(stack)
    kill(find_pids(before)["e"])
    stack.run("start", "-d")
    assert stack.wait_for_state("e", "exited")["exit"] == "unknown"
    assert is_gone(escaped)


def test_both_dead_the_port_is_bound_anew_and_nothing_is_cleared(stack: Stack) -> None:
    ledger = stack.cwd / "a.ledger"
    stack.start("-s", f"a={SHADOW} --loop --speed 100 --ledger {ledger}", "-s", "dead=sleep 600")
    wait_for(lambda: ledger.exists() and len(read_ledgers(ledger)) > 8, what="some counts")
    before = kill_supervisor(stack)
    kill(before["metricsd"]["pid"])
    stack.run("start", "-d")
    after = stack.status()
    assert find_pids(after)["a"] == find_pids(before)["a"]
    assert (after["metricsd"]["state"], after["metricsd"]["restarts"]) == ("running", 1)
    stack.run("stop", "a")
    assert drop_zeros(stack.counters()) == read_ledgers(ledger)


def test_a_stranger_on_the_port_is_named_and_nothing_is_changed(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    before = kill_supervisor(stack)
    kill(before["metricsd"]["pid"])
    with socket.create_server(("0.0.0.0", stack.port)):
        refused = stack.run("start", "-d", code=7)
        assert str(os.getpid()) in refused.stderr
        assert find_pids(stack.status(code=4))["a"] == find_pids(before)["a"]
    stack.run("start", "-d")
    assert find_pids(stack.status())["a"] == find_pids(before)["a"]


def test_a_metricsd_that_hangs_is_killed_and_the_port_bound_anew(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    before = kill_supervisor(stack)
    os.kill(before["metricsd"]["pid"], signal.SIGSTOP)
    began = time.monotonic()
    stack.run("start", "-d")
    assert time.monotonic() - began < 8
    after = stack.status()
    assert is_gone(before["metricsd"]["pid"])
    assert find_pids(after)["a"] == find_pids(before)["a"]
    (found,) = after["drift"]
    assert (found["kind"], found["subject"]) == (
        "listener-lost",
        f"metricsd (pid {before['metricsd']['pid']})",
    )
    stack.scrape()


# -- Wishes outlive the supervisor ----------------------------------------------------------------


def test_a_stop_under_way_is_finished(stack: Stack) -> None:
    stack.start("-s", f"deaf={child('ignores_term')}", "-s", "b=sleep 600")
    stack.wait_for_log("deaf", "deaf")
    stopping = stack.popen("stop", "deaf", "--timeout", "60")
    wait_for(lambda: stack.session("deaf")["state"] == "stopping", what="the stop")
    before = kill_supervisor(stack)
    stopping.communicate(timeout=10)
    change_state(stack, "deaf", settings={"stop_timeout_seconds": 1})
    stack.run("start", "-d")
    deaf = stack.wait_for_state("deaf", "stopped")
    assert deaf["target"] == "down"
    assert is_gone(find_pids(before)["deaf"])
    assert stack.session("b")["state"] == "running"


def test_who_was_stopped_stays_stopped(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600", "-s", "b=sleep 600", "--restart", "always")
    stack.run("stop", "a")
    kill_supervisor(stack)
    stack.run("start", "-d")
    a = stack.session("a")
    assert (a["state"], a["target"], a["exit"]) == ("stopped", "down", "SIGTERM")


@pytest.mark.parametrize("name", ["restart", "death"])
def test_a_restart_is_refused_by_name_when_a_configured_variable_is_missing(
    stack: Stack, name: str
) -> None:
    (stack.cwd / "ptsup.toml").write_text(
        '[session.a]\ncommand = ["sleep", "600"]\nrestart = "always"\n'
        '[session.a.env]\nDESK = "five"\n'
    )
    stack.start()
    before = find_pids(kill_supervisor(stack))
    assert "five" not in "".join(p.read_text() for p in (stack.run_dir / "state").glob("*.json*"))
    (stack.cwd / "ptsup.toml").rename(stack.cwd / "aside.toml")
    stack.run("start", "-d")
    if name == "restart":
        refused = stack.run("restart", "a", code=2)
        assert "DESK" in refused.stderr
        assert stack.session("a")["pid"] == before["a"]  # it was not stopped for nothing
    else:
        kill(before["a"])
        assert "DESK" in stack.wait_for_state("a", "fatal")["reason"]
    kill_supervisor(stack)
    stack.run("start", "-d", DESK="six")
    if name == "restart":
        stack.run("restart", "a")
        assert psutil.Process(stack.session("a")["pid"]).environ()["DESK"] == "six"


def test_an_adopted_session_restarts_with_the_environment_of_the_new_start(stack: Stack) -> None:
    (stack.cwd / "ptsup.toml").write_text(
        '[session.a]\ncommand = ["sleep", "600"]\n[session.a.env]\nDESK = "five"\n'
    )
    stack.start(FLOOR="1")
    kill_supervisor(stack)
    stack.run("start", "-d", FLOOR="2")  # the file says what DESK is
    stack.run("restart", "a")
    environ = psutil.Process(stack.session("a")["pid"]).environ()
    assert (environ["DESK"], environ["FLOOR"]) == ("five", "2")


def test_another_port_or_directory_is_refused_while_somebody_goes_by_the_old(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    before = find_pids(kill_supervisor(stack))
    refused = stack.run("start", "-d", "--port", str(find_free_port()), code=2)
    assert f"had port {stack.port}" in refused.stderr
    assert find_pids(stack.status(code=4)) == before


# -- Gates and strangers --------------------------------------------------------------------------


def test_an_adopted_session_that_could_trade_live_is_stopped_and_told(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600", "-s", "b=sleep 600")
    before = find_pids(kill_supervisor(stack))
    live = psutil.Popen(["sleep", "600"], env={"PT_LIVE": "1"}, start_new_session=True)
    try:
        # As if it had been started before the gate was there.
        ticks = stack.read_state("a")["identity"].partition("@")[2]
        start = Path(f"/proc/{live.pid}/stat").read_text().rpartition(")")[2].split()[19]
        change_state(stack, "a", pid=live.pid, identity=f"{start}@{ticks}", nonce="")
        stack.run("start", "-d")
        a = stack.wait_for_state("a", "stopped")
        assert "PT_LIVE" in a["reason"]
        assert "a is stopped:" in stack.read_log("supervisor")
        assert stack.session("b")["pid"] == before["b"]
    finally:
        live.kill()
        live.wait()
        psutil.Process(before["a"]).kill()


def test_a_recorded_pid_that_is_another_by_now_is_neither_adopted_nor_signalled(
    stack: Stack,
) -> None:
    stack.start("-s", "a=sleep 600", "-s", "b=sleep 600", "--restart", "always")
    before = find_pids(kill_supervisor(stack))
    bystander = psutil.Popen(["sleep", "600"], start_new_session=True)
    try:
        kill(before["a"])
        change_state(stack, "a", pid=bystander.pid)
        stack.run("start", "-d")
        a = stack.wait_for_state("a", "running")
        assert a["pid"] != bystander.pid
        stack.run("stop", "--timeout", "1")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("deaf", [[], ["--deaf"]])
def test_a_stop_after_an_adoption_leaves_nothing(stack: Stack, deaf: list[str]) -> None:
    stack.start(
        *("-s", f"deaf={child('ignores_term')}"),
        *("-s", f"e={child('escapes', *deaf)}"),
        *("-s", f"w={child('leaves_worker', *deaf)}"),
    )
    stack.wait_for_log("deaf", "deaf")
    stack.wait_for_log("e", "escaped")
    stack.wait_for_log("w", "worker")
    kill_supervisor(stack)
    stack.run("start", "-d")
    began = time.monotonic()
    stack.run("stop", "--timeout", "2")
    assert time.monotonic() - began < 8
    stack.assert_nothing_left()


def test_a_foreground_start_adopts_too_and_stops_all_at_ctrl_c(stack: Stack) -> None:
    stack.start("-s", "a=sh -c 'echo before; while :; do echo tick; sleep 0.1; done'")
    before = find_pids(kill_supervisor(stack))
    running = stack.popen("start")
    answers: Callable[[], bool] = lambda: (  # noqa: E731
        stack.run("status", code=None).returncode == 0
    )
    wait_for(answers, what="the new supervisor")
    assert find_pids(stack.status()) == before
    ticks = stack.read_log("a").count("tick")
    wait_for(lambda: stack.read_log("a").count("tick") > ticks, what="another tick")
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert running.returncode == 0, err
    assert "adopted a" in out + err
    assert "before" not in out  # that was shown by another
    assert "tick" in out
    stack.assert_nothing_left()


def test_what_the_dead_supervisor_refused_besides_is_refused_before_anything_is_adopted(
    stack: Stack,
) -> None:
    (stack.cwd / "ptsup.toml").write_text("[gates]\ndeny = ['ACME_GO']\n")
    stack.start("-f", "ptsup.toml")
    before = kill_supervisor(stack)
    refused = stack.start("-s", "a=env ACME_GO=1 sleep 600", code=6)
    assert refused.stderr.startswith("ptsup: cannot start a: ACME_GO")
    assert stack.status(code=4)["supervisor"] == {**before["supervisor"], "state": "dead"} | {
        "uptime_seconds": 0.0
    }


# Holds metricsd up at its start, until the file is there.
SLOW_METRICSD = """import os, sys, time
while "telemetry.metricsd" in sys.orig_argv and not os.path.exists({gate!r}):
    time.sleep(0.01)
"""


def test_a_restart_before_metricsd_answers_waits_for_it_and_is_done(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600", "-s", "b=sleep 600")
    stack.run("stop", "b")
    before = kill_supervisor(stack)
    kill(before["metricsd"]["pid"])
    gate = stack.cwd / "gate"
    (stack.cwd / "sitecustomize.py").write_text(SLOW_METRICSD.format(gate=str(gate)))
    starting = stack.popen("start", "-d", PYTHONPATH=str(stack.cwd))
    wait_for(
        lambda: stack.run("status", code=None).returncode == 0,
        timeout_seconds=30,
        what="the next supervisor",
    )
    restarting = stack.popen("restart", "a", "b")
    with pytest.raises(subprocess.TimeoutExpired):
        restarting.communicate(timeout=0.5)
    gate.touch()
    said, _ = restarting.communicate(timeout=30)
    starting.communicate(timeout=30)
    after = stack.status()["sessions"]
    assert said == "".join(f"ptsup: {s['name']}: running (pid {s['pid']})\n" for s in after)
    assert [(s["state"], s["incarnation"]) for s in after] == [("running", 2), ("running", 2)]
