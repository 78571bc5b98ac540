"""Exporters and sessions with a server of their own, beside metricsd and the sessions of mode B."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from stack import find_free_port, is_gone
from supervisor.config import EXPORTER_POLICY
from waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from stack import Stack

# Serves its own environment as a page, and counts with prometheus_client as any program would.
PROGRAM = """
import http.server, os, sys
import prometheus_client
prometheus_client.Counter("companion", "Of an exporter.").inc()
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        for item in sorted(os.environ.items()):
            self.wfile.write("=".join(item).encode() + b"\\n")
    def log_message(self, *arguments): pass
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Page).serve_forever()
"""


def write(stack: Stack, text: str) -> Path:
    (stack.cwd / "companion.py").write_text(PROGRAM)
    file = stack.cwd / "ptsup.toml"
    file.write_text(text)
    return file


def exporter(name: str, port: int, host: str = "0.0.0.0", text: str = "") -> str:
    command = [sys.executable, "companion.py", host, str(port)]
    return f"[exporter.{name}]\ncommand = {command}\nport = {port}\n{text}\n"


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def find(stack: Stack, name: str) -> dict[str, Any]:
    return next(each for each in stack.status()["exporters"] if each["name"] == name)


def test_a_companion_is_up_with_the_stack_and_none_of_its_metrics_become_shards(
    stack: Stack,
) -> None:
    port = find_free_port()
    file = write(
        stack,
        exporter("ai", port, text="env = { PROMETHEUS_MULTIPROC_DIR = '/tmp', A = '1' }")
        + "[session.a]\ncommand = 'sleep 600'\nstart_after = ['ai']\n",
    )
    said = stack.start("-f", str(file), PEAKTRADE_METRICS_MODE="B").stdout
    assert "ai: running" in said
    page = fetch(port)  # it is ready, so it answers
    assert "\nA=1\n" in f"\n{page}"
    assert "MULTIPROC" not in page.upper()
    assert "PEAKTRADE_METRICS_MODE" not in page
    assert stack.shards == []
    assert "companion" not in stack.scrape()
    session_up = ("ptsup_session_up", (("session", "a"),))
    wait_for(lambda: stack.samples().get(session_up) == 1, what="the session on the page")
    found = find(stack, "ai")
    assert (found["state"], found["port"], found["path"]) == ("running", port, "/metrics")
    assert (found["listens"], found["note"]) == (["0.0.0.0"], "")
    table = stack.run("status", "ai").stdout
    assert f":{port}/metrics" in table
    stack.run("stop")
    stack.assert_nothing_left()


def test_a_detached_start_returns_when_everybody_answers_handed_over_or_not(stack: Stack) -> None:
    write(stack, "")  # the companion

    def slow(name: str) -> tuple[int, str]:
        port = find_free_port()
        program = "import runpy, sys, time; time.sleep(1.5); runpy.run_path(sys.argv[0])"
        start = f"import sys; sys.argv[:1] = ['companion.py']; {program}"
        command = [sys.executable, "-c", start, "127.0.0.1", str(port)]
        return port, f"[exporter.{name}]\ncommand = {command}\nport = {port}\n"

    for name in ("first", "handed_over"):
        port, text = slow(name)
        file = stack.cwd / f"{name}.toml"
        file.write_text(text)
        said = stack.start("-f", str(file))
        assert f"{name}: running" in said.stdout
        assert ("waits for first to be ready" in said.stderr) == (name == "first")
        assert fetch(port)


def test_one_that_listens_on_loopback_alone_is_named(stack: Stack) -> None:
    port = find_free_port()
    stack.start("-f", str(write(stack, exporter("ai", port, "127.0.0.1"))))
    note = find(stack, "ai")["note"]
    assert note.startswith(f"listens on 127.0.0.1:{port} alone: a Prometheus in a container")
    assert note in " ".join(stack.run("status").stdout.split())
    assert stack.status()["drift"] == []


def test_one_that_is_killed_is_back_and_one_that_is_adopted_goes_on(stack: Stack) -> None:
    port = find_free_port()
    file = write(stack, exporter("ai", port) + "[session.a]\ncommand = 'sleep 600'\n")
    stack.start("-f", str(file))
    before = find(stack, "ai")
    os.kill(before["pid"], signal.SIGKILL)
    wait_for(lambda: find(stack, "ai")["incarnation"] == 2, what="the restart")
    wait_for(lambda: find(stack, "ai")["state"] == "running", what="it to be ready")
    after = find(stack, "ai")
    supervisor = stack.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: is_gone(supervisor))
    dead = stack.status(code=4)["exporters"]
    assert [(each["name"], each["pid"], each["port"]) for each in dead] == [
        ("ai", after["pid"], port)
    ]
    stack.start("-f", str(file))
    assert find(stack, "ai")["pid"] == after["pid"]
    assert find(stack, "ai")["state"] == "running"
    assert fetch(port)
    stack.run("stop", "ai")
    assert find(stack, "ai")["state"] == "stopped"
    stack.run("restart", "ai")
    wait_for(lambda: find(stack, "ai")["state"] == "running")


def test_a_live_companion_is_refused_like_a_session(stack: Stack) -> None:
    file = write(stack, exporter("ai", find_free_port(), text="env = { LIVE = '1' }"))
    assert "cannot start ai: LIVE" in stack.start("-f", str(file), code=6).stderr


def test_a_session_in_mode_a_serves_its_own_page_and_leaves_the_one_port_alone(
    stack: Stack,
) -> None:
    port = find_free_port()
    program = (
        "import time; from telemetry import *; ensure_registered(); "
        "print(start_session_http(), flush=True); "
        "inc_strategy_signal(strategy_id='old', signal='long'); time.sleep(600)"
    )
    file = write(
        stack,
        f'[session.old]\ncommand = ["{sys.executable}", "-c", "{program}"]\n'
        f'mode = "A"\nport = {port}\n',
    )
    stack.start("-f", str(file))
    stack.wait_for_log("old", "True")
    samples = {
        sample.labels["strategy_id"]: sample.value
        for family in text_string_to_metric_families(fetch(port))
        for sample in family.samples
        if sample.name == "peaktrade_strategy_signals_total" and sample.labels["signal"] == "long"
    }
    assert samples == {"old": 1.0}
    assert stack.shards == []
    assert "old" not in {dict(labels).get("strategy_id") for _, labels in stack.samples()}
    found = stack.session("old")
    assert (found["mode"], found["port"]) == ("A", port)
    assert "nothing: all is as planned" in stack.run("drift").stdout


def test_a_session_is_ready_when_its_page_is_and_may_listen_for_that(stack: Stack) -> None:
    port = find_free_port()
    write(stack, "")
    command = [sys.executable, "companion.py", "127.0.0.1", str(port)]
    file = write(
        stack,
        f"[session.db]\ncommand = {command}\n"
        f'ready = {{ http = "http://127.0.0.1:{port}/" }}\n'
        "[session.web]\ncommand = 'sleep 600'\nstart_after = ['db']\n"
        f"[session.lost]\ncommand = 'sleep 600'\nrestart = 'no'\n"
        f"ready = {{ port = {find_free_port()}, timeout_seconds = 0.3 }}\n"
        "[session.late]\ncommand = 'sleep 600'\nstart_after = ['lost']\n",
    )
    stack.start("-f", str(file))
    found = {each["name"]: each for each in stack.status()["sessions"]}
    assert (found["db"]["state"], found["web"]["state"]) == ("running", "running")
    assert stack.wait_for_state("lost", "exited")["reason"] == "not ready 0.3 s after its start"
    assert (found["late"]["state"], found["late"]["reason"]) == ("stopped", "waits for lost")
    assert not [each for each in stack.status()["drift"] if each["kind"] == "session-listens"]


def test_limits_hold_from_the_first_instruction_on_and_signals_are_as_ever(stack: Stack) -> None:
    program = (
        "import resource, signal, os; print(resource.getrlimit(resource.RLIMIT_NOFILE), "
        "resource.getrlimit(resource.RLIMIT_CORE), signal.getsignal(signal.SIGPIPE).name, "
        "os.environ.get('LC_CTYPE'), flush=True)"
    )
    file = write(
        stack,
        '[session.a]\nlimits = { nofile = 64, core = "1M" }\n'
        f'command = ["env", "PYTHONCOERCECLOCALE=0", "{sys.executable}", "-c", "{program}"]\n'
        "[session.gone]\ncommand = './gone.sh'\nlimits = { nofile = 64 }\n",
    )
    gone = stack.cwd / "gone.sh"
    gone.write_text("#!/nowhere/at/all\n")
    gone.chmod(0o755)
    stack.start("-f", str(file))
    # Python ignores SIGPIPE for itself, whatever it was: a shell would tell; the rest is exact.
    log = stack.wait_for_log("a", "(64, 64)")
    assert "(64, 64) (1048576, 1048576)" in log
    assert stack.wait_for_state("gone", "exited")["exit"] == "127"
    assert "cannot start './gone.sh'" in stack.read_log("gone")


def test_what_a_dead_supervisor_left_is_asked_to_end_by_its_own_signal(stack: Stack) -> None:
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(print('asked', flush=True))); "
        "print('deaf', flush=True); time.sleep(600)"
    )
    file = write(
        stack,
        f'[session.a]\ncommand = ["{sys.executable}", "-c", "{program}"]\n'
        'stop_signal = "USR1"\nstop_timeout_seconds = 20\n',
    )
    stack.start("-f", str(file))
    stack.wait_for_log("a", "deaf")
    supervisor = stack.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: is_gone(supervisor))
    stack.run("stop")
    stack.wait_for_log("a", "asked")
    # And by a living one, too.
    stack.start("-f", str(file))
    wait_for(lambda: stack.read_log("a").count("deaf") == 2)
    stack.run("stop", "a")
    wait_for(lambda: stack.read_log("a").count("asked") == 2)


def test_what_a_dead_supervisor_left_is_killed_after_its_own_stop_timeout(stack: Stack) -> None:
    port = find_free_port()
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    file = write(stack, exporter("ai", port, text="stop_timeout_seconds = 0.2"))
    (stack.cwd / "companion.py").write_text(f"{deaf}\n{PROGRAM}")
    stack.start("-f", str(file))
    wait_for(lambda: find(stack, "ai")["state"] == "running", what="it to be deaf, and ready")
    supervisor = stack.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: is_gone(supervisor))
    began = time.monotonic()
    stack.run("stop")
    assert time.monotonic() - began < 0.8 * EXPORTER_POLICY.stop_timeout_seconds
    stack.assert_nothing_left()
