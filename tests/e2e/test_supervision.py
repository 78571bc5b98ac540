"""Deaths of every kind: of sessions, of metricsd, of the supervisor itself."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import psutil
import pytest

from stack import BIN, SHADOW, child, is_gone, is_reaped
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack


def replaced(stack: Stack, pid: int) -> bool:
    return stack.status()["metricsd"]["pid"] not in {pid, None}


# -- Sessions -----------------------------------------------------------------------------------


def test_a_session_that_ignores_term_is_killed_at_its_timeout(stack: Stack) -> None:
    stack.start("-s", f"deaf={child('ignores_term')}")
    stack.wait_for_log("deaf", "deaf")
    began = time.monotonic()
    stack.run("stop", "--timeout", "1")
    assert 1 <= time.monotonic() - began < 4
    stack.assert_nothing_left()


def test_what_is_left_of_a_dead_leaders_group_is_ended_before_the_reap(stack: Stack) -> None:
    stack.start("-s", f"gentle={child('leaves_worker')}")
    worker = int(stack.wait_for_log("gentle", "worker").split()[-1])
    ended = stack.wait_for_state("gentle", "exited")
    assert ended["exit"] == "3"
    assert not psutil.pid_exists(worker)


def test_a_deaf_remnant_is_killed(stack: Stack) -> None:
    config = stack.cwd / "ptsup.toml"
    command = child("leaves_worker", "--deaf")
    config.write_text(f'[session.deaf]\ncommand = "{command}"\nstop_timeout_seconds = 0.5\n')
    stack.start()
    worker = int(stack.wait_for_log("deaf", "worker").split()[-1])
    assert stack.wait_for_state("deaf", "exited")["exit"] == "3"
    assert not psutil.pid_exists(worker)


def test_an_orphaned_worker_is_claimed_and_reaped(stack: Stack) -> None:
    stack.start("-s", f"forks={child('double_forks')}")
    orphan = int(stack.wait_for_log("forks", "orphan").split()[-1])
    wait_for(partial(is_reaped, orphan), what="the orphan to be reaped")
    assert not [name for name in stack.shards if str(orphan) in name]
    blocks = ("peaktrade_risk_blocks_total", (("reason", "runtime:halt"),))
    assert stack.counters()[blocks] == 1


@pytest.mark.parametrize("deaf", [[], ["--deaf"]])
def test_who_escaped_its_sessions_group_is_ended_by_stop(stack: Stack, deaf: list[str]) -> None:
    stack.start("-s", f"e={child('escapes', *deaf)}")
    escaped = int(stack.wait_for_log("e", "escaped").split()[-1])
    stack.run("stop", "--timeout", "1")  # it is given the time of its session
    assert not psutil.pid_exists(escaped)
    stack.assert_nothing_left()


def test_a_bystanders_group_is_untouched(stack: Stack) -> None:
    bystander = subprocess.Popen(["sleep", "60"], cwd=stack.cwd, start_new_session=True)
    try:
        stack.start("-s", f"deaf={child('ignores_term')}")
        stack.run("stop", "--timeout", "0")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_on_failure_restarts_a_failed_session_but_no_good_one(stack: Stack) -> None:
    stack.start("--restart", "on-failure", "-s", "bad=sh -c 'exit 3'", "-s", "good=true")
    wait_for(lambda: stack.session("bad")["restarts"] >= 2, what="two restarts")
    good = stack.wait_for_state("good", "exited")
    assert (good["state"], good["restarts"], good["exit"]) == ("exited", 0, "0")


def test_a_session_that_fails_again_and_again_becomes_fatal_with_a_reason(stack: Stack) -> None:
    stack.start("--restart", "always", "-s", "bad=sh -c 'echo no such account; exit 3'")
    ended = stack.wait_for_state("bad", "fatal", timeout=40)
    assert ended["reason"] == "failed 6 times within 60 s"
    assert ended["restarts"] == 5
    assert ended["last_lines"] == ["no such account"] * 5
    table = stack.run("status").stdout
    assert "bad: failed 6 times within 60 s\n  no such account\n" in table


def test_stop_of_one_session_leaves_the_others_alone(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600", "-s", "b=sleep 600")
    before = stack.session("b")["pid"]
    stack.run("stop", "a")
    assert stack.session("a")["state"] == "stopped"
    assert stack.session("a")["exit"] == "SIGTERM"
    assert (stack.session("b")["state"], stack.session("b")["pid"]) == ("running", before)


def test_restart_gives_a_session_a_new_pid(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    before = stack.session("a")["pid"]
    stack.run("restart", "a")
    after = stack.session("a")
    assert after["state"] == "running"
    assert (after["incarnation"], after["restarts"]) == (2, 1)
    assert after["pid"] != before


def test_a_restart_that_a_stop_overtakes_is_answered(stack: Stack) -> None:
    stack.start("-s", f"deaf={child('ignores_term')}")
    stack.wait_for_log("deaf", "deaf")
    restarting = stack.popen("restart", "deaf")
    wait_for(lambda: stack.session("deaf")["state"] == "stopping")
    stack.run("stop", "deaf", "--timeout", "0.5")
    out, err = restarting.communicate(timeout=10)
    assert restarting.returncode == 1
    assert "deaf: stopped (exit SIGKILL)" in out + err


def test_logs_follow_shows_each_line_once_and_sessions_that_come_later(stack: Stack) -> None:
    stack.start("-s", "a=sh -c 'for i in $(seq 2000); do echo a$i; done; sleep 600'")
    following = stack.popen("logs", "-f", "-n", "5000")
    stack.wait_for_log("a", "a2000")
    stack.start("-s", "later=sh -c 'echo hello; sleep 600'")
    assert following.stdout is not None
    lines = []
    for line in iter(following.stdout.readline, ""):
        lines.append(line.rstrip())
        if line.startswith("later | hello"):
            break
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=10)
    seen = [line.partition("| ")[2] for line in lines if line.startswith("a ")]
    assert seen == [f"a{number}" for number in range(1, 2001)]


# -- metricsd -----------------------------------------------------------------------------------


def test_a_scrape_waits_instead_of_failing_while_metricsd_restarts(stack: Stack) -> None:
    stack.start("-s", f"a={SHADOW} --loop")
    for _ in range(5):
        pid = stack.status()["metricsd"]["pid"]
        os.kill(pid, signal.SIGKILL)
        assert "peaktrade_risk_checks_total" in stack.scrape()
        wait_for(partial(replaced, stack, pid))
    assert stack.session("a")["restarts"] == 0


def test_a_hung_metricsd_is_replaced(stack: Stack) -> None:
    stack.start()
    pid = stack.status()["metricsd"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    wait_for(partial(replaced, stack, pid), timeout_seconds=8)
    stack.scrape()
    # Three seconds are the promise; the rest is for a machine that does a lot beside.
    assert time.monotonic() - began < 4.5


# -- The supervisor -----------------------------------------------------------------------------


def test_after_a_crash_status_tells_the_truth_and_stop_ends_the_rest(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600", "-s", f"deaf={child('ignores_term')}", "-s", "done=true")
    stack.wait_for_log("deaf", "deaf")
    stack.wait_for_state("done", "exited")
    before = stack.status()
    os.kill(before["supervisor"]["pid"], signal.SIGKILL)
    wait_for(partial(is_gone, before["supervisor"]["pid"]))

    dead = stack.status(code=4)
    assert dead["supervisor"]["state"] == "dead"
    states = {s["name"]: (s["state"], s["pid"], s["exit"]) for s in dead["sessions"]}
    pids = {s["name"]: s["pid"] for s in before["sessions"]}
    assert states["a"] == ("running", pids["a"], None)
    assert states["deaf"] == ("running", pids["deaf"], None)
    assert states["done"] == ("exited", None, "0")

    assert dead["metricsd"]["pid"] == before["metricsd"]["pid"]

    stack.run("stop", "--timeout", "1")
    stack.assert_nothing_left()


def test_after_a_crash_no_worker_is_missed_whose_leader_is_dead_or_who_escaped(
    stack: Stack,
) -> None:
    stack.start("-s", f"w={child('double_forks')}", "-s", f"e={child('escapes')}")
    escaped = int(stack.wait_for_log("e", "escaped").split()[-1])
    leader = stack.session("e")["pid"]
    supervisor = stack.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(partial(is_gone, supervisor))
    os.kill(leader, signal.SIGKILL)
    wait_for(partial(is_gone, leader))
    stack.run("stop", "--timeout", "5")
    wait_for(partial(is_gone, escaped))
    stack.assert_nothing_left()


def test_a_crash_that_left_nobody_is_taken_over_and_its_totals_stay(stack: Stack) -> None:
    stack.start("-s", f"a={SHADOW} --speed 400")
    stack.wait_for_state("a", "exited", timeout=30)
    totals = stack.counters()
    status = stack.status()
    for pid in (status["supervisor"]["pid"], status["metricsd"]["pid"]):
        os.kill(pid, signal.SIGKILL)
        wait_for(partial(is_gone, pid))
    stack.start("-s", "b=sleep 600")
    assert stack.counters() == totals


def test_output_of_a_detached_start_ends_with_it(stack: Stack) -> None:
    # $(ptsup start -d ...) waits for everybody who holds the pipe.
    done = stack.start("-s", "a=sleep 600")
    assert "a: running" in done.stdout


def test_ctrl_c_stops_a_foreground_start_in_order(stack: Stack) -> None:
    running = stack.popen("start", "--port", str(stack.port), "-s", "a=sh -c 'echo hi; sleep 600'")
    stack.wait_for_log("a", "hi")
    wait_for(lambda: stack.session("a")["state"] == "running")
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=15)
    assert running.returncode == 0, err
    assert "a | hi" in out
    assert err.endswith("ptsup: metricsd: stopped (exit 0)\n")  # no word of complaint
    stack.assert_nothing_left()


def test_a_second_ctrl_c_stops_at_once(stack: Stack) -> None:
    running = stack.popen("start", "--port", str(stack.port), "-s", f"a={child('ignores_term')}")
    stack.wait_for_log("a", "deaf")
    wait_for(lambda: stack.session("a")["state"] == "running")
    running.send_signal(signal.SIGINT)
    wait_for(lambda: stack.session("a")["state"] == "stopping")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=5)
    assert running.returncode == 0
    stack.assert_nothing_left()


def test_exit_when_done_ends_with_the_last_session(stack: Stack) -> None:
    port = str(stack.port)
    stack.run("start", "--port", port, "--exit-when-done", "-s", "a=true", "-s", "b=true")
    stack.assert_nothing_left()
    stack.run("start", "--port", port, "--exit-when-done", "-s", "a=true", "-s", "b=false", code=1)
    stack.assert_nothing_left()


def test_a_running_supervisor_takes_new_sessions_over(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    elsewhere = stack.cwd / "elsewhere"
    elsewhere.mkdir()
    stack.run(
        *("start", "-d", "--run-dir", str(stack.run_dir)),
        *("-s", "b=sh -c 'pwd; echo $COLOUR; sleep 600'"),
        COLOUR="teal",
    )
    assert stack.wait_for_log("b", "teal").split()[-2:] == [str(stack.cwd), "teal"]
    sessions = stack.status()["sessions"]
    assert [(s["name"], s["state"]) for s in sessions] == [("a", "running"), ("b", "running")]


def test_ctrl_c_of_a_hand_over_stops_only_what_it_handed_over(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    running = stack.popen("start", "-s", "b=sh -c 'echo hi; sleep 600'")
    assert running.stdout is not None
    lines = iter(running.stdout.readline, "")
    assert any("b | hi" in line for line in lines)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=15)
    assert stack.session("b")["state"] == "stopped"
    assert stack.session("a")["state"] == "running"


def test_hundred_sessions_start_and_stop(stack: Stack) -> None:
    flags = [word for number in range(100) for word in ("-s", f"s{number}=sleep 600")]
    stack.start(*flags)
    states = [s["state"] for s in stack.status()["sessions"]]
    assert states == ["running"] * 100
    stack.run("stop")
    stack.assert_nothing_left()


def test_concurrent_starts_make_one_supervisor(stack: Stack) -> None:
    results: list[int] = []

    def start(name: str) -> None:
        arguments = ["start", "-d", "--port", str(stack.port), "-s", f"{name}=sleep 600"]
        done = subprocess.run(
            [str(BIN / "ptsup"), *arguments],
            cwd=stack.cwd,
            env=stack.env,
            capture_output=True,
            check=False,
        )
        results.append(done.returncode)

    threads = [threading.Thread(target=start, args=(f"s{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sessions = stack.status()["sessions"]
    assert results.count(0) == len(sessions) >= 1
    supervisors = {p.ppid() for p in stack.processes() if "sleep" in p.name()}
    assert supervisors == {stack.status()["supervisor"]["pid"]}


def test_a_second_run_dir_on_the_same_port_is_refused(stack: Stack) -> None:
    stack.start()
    pid = stack.status()["supervisor"]["pid"]
    other = stack.start("--run-dir", "other", "-s", "x=sleep 600", code=7)
    assert f"pid {pid}" in other.stderr
