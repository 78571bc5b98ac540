"""The supervisor among hostile children, files, environments and operators.

Whatever happens ends in one line and an exit code, leaves nothing behind, and touches nobody else.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from stack import BIN, child, is_gone
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack

PTSUP = str(BIN / "ptsup")
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a subreaper")


def kill_supervisor(stack: Stack) -> int:
    pid: int = stack.status()["supervisor"]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(partial(is_gone, pid))
    return pid


def find_zombies(pid: int) -> list[int]:
    return [p.pid for p in psutil.Process(pid).children() if p.status() == psutil.STATUS_ZOMBIE]


def ask(stack: Stack, verb: str, **parameters: Any) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(15)
        connection.connect(str(stack.run_dir / "control.sock"))
        connection.sendall(json.dumps({"v": 1, "verb": verb, **parameters}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(connection.makefile("rb").readline())
    assert answer["ok"], answer
    return answer


# -- Children -----------------------------------------------------------------------------------


def test_twenty_deaf_workers_are_gone_after_the_stop(stack: Stack) -> None:
    stack.start("-s", f"a={child('hostile_workers', '20')}")
    stack.wait_for_log("a", "ready")
    stack.run("stop", "--timeout", "0.3")
    stack.assert_nothing_left()


@LINUX_ONLY
def test_a_hundred_orphans_that_die_at_once_are_all_reaped(stack: Stack) -> None:
    stack.start("-s", f"a={child('hostile_workers', '100', '--escape')}")
    stack.wait_for_log("a", "ready")
    status = stack.status()
    supervisor = psutil.Process(status["supervisor"]["pid"])
    ours = {status["metricsd"]["pid"], status["sessions"][0]["pid"]}
    orphans = [process for process in supervisor.children() if process.pid not in ours]
    assert len(orphans) == 100
    for orphan in orphans:
        orphan.kill()
    wait_for(lambda: {p.pid for p in supervisor.children()} == ours, what="the orphans' reap")
    assert stack.session("a")["state"] == "running"
    stack.run("stop", "--timeout", "0")


def test_sessions_that_end_in_their_first_millisecond_leave_no_zombie(stack: Stack) -> None:
    stack.start(*(word for number in range(50) for word in ("-s", f"s{number}=true")))
    wait_for(lambda: {s["state"] for s in stack.status()["sessions"]} == {"exited"})
    assert {s["exit"] for s in stack.status()["sessions"]} == {"0"}
    assert not find_zombies(stack.status()["supervisor"]["pid"])


@LINUX_ONLY
def test_a_hundred_hand_overs_cost_no_descriptor_and_no_zombie(stack: Stack) -> None:
    stack.start()
    supervisor = psutil.Process(stack.status()["supervisor"]["pid"])
    spec = {"name": "x", "command": ["true"], "cwd": str(stack.cwd)}

    def is_at_rest() -> bool:
        asks = {each.raddr[1:] for each in supervisor.net_connections("tcp")}
        try:
            held = [str(path.readlink()) for path in Path(f"/proc/{supervisor.pid}/fd").iterdir()]
        except FileNotFoundError:  # it looks around just now
            return False
        # One of the rotation's, two of the watch of files: its own is the last to be made.
        return (stack.port,) in asks and held.count("anon_inode:inotify") == 3

    wait_for(is_at_rest, what="the connection that is kept, and the watches of files")
    before = supervisor.num_fds()
    for _ in range(100):
        ask(stack, "start", sessions=[spec], environ={"PATH": os.environ["PATH"]})
        ask(stack, "wait", names=["x"])
    wait_for(lambda: supervisor.num_fds() <= before, what="the descriptors to be closed")
    assert not find_zombies(supervisor.pid)


@LINUX_ONLY
def test_a_session_cannot_take_the_metrics_port_on_any_address(stack: Stack) -> None:
    stack.start("-s", f"a={child('hostile_binder', str(stack.port))}")
    assert "took" not in stack.wait_for_log("a", "done")
    stack.scrape()


# -- Wrong pids and crashes ---------------------------------------------------------------------


def test_a_recorded_pid_that_is_another_process_by_now_is_never_signalled(stack: Stack) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as bystander:
        try:
            forged = {"pid": bystander.pid, "identity": "1@another-boot", "state": "running"}
            documents = {
                "supervisor": {**forged, "multiproc_dir": str(stack.multiproc_dir)},
                "metricsd": {**forged, "incarnation": 1},
                "a": {**forged, "incarnation": 1, "returncode": None, "command": ["x"]},
            }

            def forge() -> None:
                states = stack.run_dir / "state"
                states.mkdir(parents=True, exist_ok=True)
                own = documents["supervisor"]
                (states / "supervisor.json").write_text(json.dumps(own))
                with stack.journal.open("w") as journal:
                    for name in ("metricsd", "a"):
                        journal.write("\n" + json.dumps({"name": name, **documents[name]}))

            forge()
            [session] = stack.status(code=4)["sessions"]
            assert (session["state"], session["pid"]) == ("exited", None)
            stack.run("stop", "--timeout", "0")
            stack.run("status", code=3)
            forge()
            stack.start("-s", "b=sleep 600")  # nobody lives: it takes over
            stack.run("stop")
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_a_stop_of_orphans_that_was_interrupted_is_finished_by_the_next(stack: Stack) -> None:
    stack.start("-s", f"deaf={child('ignores_term')}")
    stack.wait_for_log("deaf", "deaf")
    kill_supervisor(stack)
    first = stack.popen("stop", "--timeout", "60")
    assert first.stdout is not None
    assert "ending what it left" in first.stdout.readline()
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=10)
    assert (first.returncode, err.strip()) == (130, "ptsup: interrupted")
    stack.status(code=4)
    stack.run("stop", "--timeout", "0")
    stack.assert_nothing_left()


def test_a_supervisor_killed_while_metricsd_starts_leaves_nothing_that_stop_misses(
    stack: Stack,
) -> None:
    starting = stack.popen("start", "-d", "--port", str(stack.port), "-s", "a=sleep 600")

    def find_recorded_pid() -> object:
        return stack.journal.exists() and stack.read_state("metricsd").get("pid")

    wait_for(find_recorded_pid, what="metricsd on record")
    own = stack.journal.with_name("supervisor.json")
    supervisor = json.loads(own.read_text())["pid"]
    os.kill(supervisor, signal.SIGKILL)
    _, err = starting.communicate(timeout=10)
    assert "Traceback" not in err
    assert starting.returncode in {0, 1}
    wait_for(partial(is_gone, supervisor))
    stack.run("stop", "--timeout", "1")
    stack.assert_nothing_left()


def test_a_supervisor_without_its_socket_still_ends_in_order_at_term(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    pid = stack.status()["supervisor"]["pid"]
    (stack.run_dir / "control.sock").unlink()
    refused = stack.run("stop", code=4)  # it holds the lock: nobody is ended behind its back
    assert "does not answer" in refused.stderr
    os.kill(pid, signal.SIGTERM)
    wait_for(partial(is_gone, pid))
    stack.assert_nothing_left()


# -- metricsd -----------------------------------------------------------------------------------


def test_metricsd_killed_again_and_again_while_it_starts_comes_up(stack: Stack) -> None:
    starting = stack.popen("start", "-d", "--port", str(stack.port), "-s", "a=sleep 600")

    def find_next(former: set[int]) -> int | None:
        exists = stack.journal.exists()
        pid: int | None = stack.read_state("metricsd").get("pid") if exists else None
        return None if pid in former else pid

    killed: set[int] = set()
    for _ in range(3):
        pid = wait_for(partial(find_next, killed))
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    _, err = starting.communicate(timeout=30)
    assert starting.returncode == 0, err
    assert stack.session("a")["state"] == "running"
    assert stack.status()["metricsd"]["restarts"] >= 1
    stack.scrape()


def test_packages_of_our_names_in_the_working_directory_shadow_nothing(stack: Stack) -> None:
    for name in ("telemetry", "supervisor", "waitress", "prometheus_client"):
        (stack.cwd / name).mkdir()
        (stack.cwd / name / "__init__.py").write_text("raise SystemExit(9)")
    stack.start("-s", "a=sleep 600")
    stack.scrape()
    stack.run("restart", "a")


def test_stop_ends_a_start_whose_metricsd_cannot_come_up(stack: Stack) -> None:
    poison = stack.cwd / "poison" / "waitress"
    poison.mkdir(parents=True)
    (poison / "__init__.py").write_text("raise ImportError('poison')")
    starting = stack.popen(
        *("start", "-d", "--port", str(stack.port), "-s", "a=sleep 600"),
        PYTHONPATH=str(poison.parent),
    )
    stack.wait_for_log("metricsd", "poison")
    stack.run("stop")
    _, err = starting.communicate(timeout=15)
    assert starting.returncode == 1
    assert "Traceback" not in err
    stack.assert_nothing_left()


# -- Operators in each other's way --------------------------------------------------------------


def test_stops_at_the_same_time_all_see_the_end(stack: Stack) -> None:
    stack.start("-s", f"deaf={child('ignores_term')}")
    stack.wait_for_log("deaf", "deaf")
    stops = [stack.popen("stop", "--timeout", "2") for _ in range(4)]
    answers = [stop.communicate(timeout=20) for stop in stops]
    assert [stop.returncode for stop in stops] == [0] * 4, answers
    stack.assert_nothing_left()


def test_a_start_during_a_stop_is_refused_in_one_line(stack: Stack) -> None:
    stack.start("-s", f"deaf={child('ignores_term')}")
    stack.wait_for_log("deaf", "deaf")
    stopping = stack.popen("stop", "--timeout", "60")
    wait_for(lambda: stack.status()["supervisor"]["state"] == "stopping")
    refused = stack.run("start", "-d", "-s", "b=sleep 600", code=1)
    assert refused.stderr.startswith("ptsup: cannot start: the supervisor is stopping\n")
    stack.run("stop", "--timeout", "0")  # the second one hurries the first
    assert stopping.wait(timeout=10) == 0
    stopping.communicate()
    stack.assert_nothing_left()


def test_output_that_is_read_no_more_ends_no_session(stack: Stack) -> None:
    session = "a=sh -c 'echo one; sleep 0.3; echo two; sleep 0.3; echo three > done'"
    start = [PTSUP, "start", "--port", str(stack.port), "--exit-when-done"]
    running = subprocess.run(
        ["bash", "-c", '"$@" | head -1', "-", *start, "-s", session],
        cwd=stack.cwd,
        env=stack.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert running.stdout == "a | one\n"
    assert "Traceback" not in running.stderr
    wait_for((stack.cwd / "done").exists)
    wait_for(lambda: not stack.processes())
    stack.assert_nothing_left()


# -- Environments -------------------------------------------------------------------------------


def test_bytes_that_are_no_text_pass_through_everywhere(stack: Stack) -> None:
    cwd = os.fsencode(stack.cwd) + b"/\xff\xfe \x1b[31m"
    os.mkdir(cwd)  # noqa: PTH102 - a name that is no text
    env = {os.fsencode(name): os.fsencode(value) for name, value in stack.env.items()}
    env[b"ODD\xff"] = b"\xfe"
    shared = ["--run-dir", str(stack.run_dir)]

    def run(*arguments: str | bytes) -> bytes:
        done = subprocess.run(
            [PTSUP, *arguments],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"\x1b[31m" not in done.stdout + done.stderr
        return done.stdout

    port = ["--port", str(stack.port)]
    run("start", "-d", *port, *shared, "-s", b"a=sh -c 'pwd; echo $0; sleep 600' \xff")
    run("start", "-d", *shared, "-s", b"b=sh -c 'pwd; echo $0; sleep 600' \xff")
    run("restart", *shared, "b")
    for name in ("a", "b"):
        log = stack.run_dir / "logs" / f"{name}.log"
        wait_for(lambda log=log: log.read_bytes().endswith(b"\n\xff\n"))  # type: ignore[misc]
        assert cwd in log.read_bytes()
    assert b"running" in run("status", *shared)
    assert len(json.loads(run("status", "--json", *shared))["sessions"]) == 2
    run("logs", *shared)
    run("stop", *shared)


def test_a_large_environment_reaches_started_and_handed_over_sessions(stack: Stack) -> None:
    large = {f"LARGE_{number}": "x" * 100_000 for number in range(12)}
    command = "sh -c 'echo ${#LARGE_11}; sleep 600'"
    stack.env.update(large)
    stack.start("-s", f"a={command}")
    stack.run("start", "-d", "-s", f"b={command}")
    for name in ("a", "b"):
        stack.wait_for_log(name, "100000\n")


@pytest.mark.parametrize("missing", [("HOME",), ("PATH",), ("HOME", "PATH", "LANG", "TERM")])
def test_it_needs_no_variable_of_the_environment(stack: Stack, missing: tuple[str, ...]) -> None:
    stack.env = {name: value for name, value in stack.env.items() if name not in missing}
    stack.start("-s", "a=sleep 600")
    stack.run("stop")
    stack.assert_nothing_left()


def test_an_open_umask_opens_nothing(stack: Stack) -> None:
    start = [PTSUP, "start", "-d", "--port", str(stack.port), "-s", "a=sleep 600"]
    subprocess.run(
        ["sh", "-c", 'umask 000; exec "$@"', "-", *start],
        cwd=stack.cwd,
        env=stack.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=True,
    )
    stack.run("restart", "a")
    everything = [stack.multiproc_dir, stack.run_dir, *stack.run_dir.rglob("*")]
    assert not [path for path in everything if path.lstat().st_mode & 0o077]


def test_a_link_to_the_run_dir_leads_to_the_same_supervisor(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    (stack.cwd / "link").symlink_to(stack.run_dir)
    stack.run("start", "-d", "--run-dir", "link", "-s", "b=sleep 600")
    assert [s["name"] for s in stack.status()["sessions"]] == ["a", "b"]
    stack.run("stop", "--run-dir", "link")
    stack.assert_nothing_left()


def test_a_stop_keeps_what_is_no_longer_its_shard_directory(stack: Stack) -> None:
    stack.start("-s", "a=sleep 600")
    precious = stack.cwd / "precious"
    stack.multiproc_dir.rename(precious)
    theirs = precious / "counter_2147483647.db"  # of a pid that nobody has
    theirs.write_text("theirs")
    stack.multiproc_dir.symlink_to(precious)
    stack.run("stop", code=None)
    assert theirs.read_text() == "theirs"
    stack.multiproc_dir.unlink()
