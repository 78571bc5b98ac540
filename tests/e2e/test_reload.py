"""`ptsup reload`: touches what has changed in the file, and nobody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest

from stack import BIN, child, find_free_port, is_gone
from waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from stack import Stack


@pytest.fixture
def file(stack: Stack) -> Path:
    return stack.cwd / "ptsup.toml"


def session(name: str, text: str = "", seconds: int = 600) -> str:
    return f"[session.{name}]\ncommand = 'sleep {seconds}'\n{text}\n"


def pids(stack: Stack) -> dict[str, Any]:
    document = stack.status()
    return {each["name"]: each["pid"] for each in (*document["sessions"], *document["exporters"])}


def test_of_twenty_sessions_the_eighteen_that_are_as_before_keep_their_pids(
    stack: Stack, file: Path
) -> None:
    names = [f"s{number:02}" for number in range(20)]
    file.write_text("".join(map(session, names)))
    stack.start("-f", str(file), "-s", "mine=sleep 600")
    before = pids(stack)
    file.write_text(
        session(names[0], seconds=500) + "".join(map(session, names[1:19])) + session("new")
    )
    said = stack.run("reload").stdout.splitlines()
    assert said[:4] == [
        "added      new",
        "removed    s19",
        "changed    s00: command (restarted)",
        "unchanged  18",
    ]
    after = pids(stack)
    assert {name: after.get(name) for name in (*names[1:19], "mine")} == {
        name: before[name] for name in (*names[1:19], "mine")
    }
    assert after.keys() == (before.keys() - {"s19"}) | {"new"}
    assert after["s00"] != before["s00"]
    assert stack.session("s00")["incarnation"] == 2
    assert not stack.read_state("s19")
    # Once more: nothing is otherwise.
    assert stack.run("reload").stdout.splitlines() == ["unchanged  20"]
    assert pids(stack) == after


def test_what_needs_no_new_incarnation_counts_at_once(stack: Stack, file: Path) -> None:
    deaf = child("ignores_term")
    file.write_text(f"[session.a]\ncommand = '''{deaf}'''\n")
    stack.start("-f", str(file))
    stack.wait_for_log("a", "deaf")
    before = pids(stack)
    file.write_text(f"[session.a]\ncommand = '''{deaf}'''\nstop_timeout_seconds = 0.2\n")
    assert "changed    a: stop_timeout_seconds (goes on)" in stack.run("reload").stdout
    assert pids(stack) == before
    stack.run("stop", "a")
    assert stack.session("a")["exit"] == "SIGKILL"


MISTAKES: Final = (
    ("[session.b]\ncommand = 3\n", 2, "ptsup.toml:5: session.b.command: the command is"),
    ("[session", 2, "ptsup.toml:4: "),
    ("[session.b]\ncommand = 'nowhere'\n", 2, "cannot start b: no such program: nowhere"),
    ("[session.b]\ncommand = 'sleep 1'\nenv = {LIVE = '1'}\n", 6, "cannot start b: LIVE"),
    ("[session.mine]\ncommand = 'sleep 1'\n", 2, "ptsup.toml:4: session.mine: a session of"),
    ("[session.b]\ncommand = 'x'\nstart_after = ['c']", 2, "ptsup.toml:6: session.b.start"),
)


def test_a_file_with_a_mistake_changes_nothing(stack: Stack, file: Path) -> None:
    file.write_text(session("a"))
    stack.start("-f", str(file), "-s", "mine=sleep 600")
    before = pids(stack)
    for text, code, says in MISTAKES:
        file.write_text(session("a", seconds=500) + text)
        refused = stack.run("reload", code=code)
        assert refused.stderr.startswith("ptsup: ")
        assert says in refused.stderr
        assert refused.stdout == ""
    file.unlink()
    assert f"cannot read {file}: No such file" in stack.run("reload", code=2).stderr
    assert pids(stack) == before


def test_a_longer_list_of_no_live_is_refused_while_one_runs_that_it_forbids(
    stack: Stack, file: Path
) -> None:
    file.write_text(session("a"))
    stack.start("-f", str(file), "-s", "mine=env ACME_GO=1 sleep 600")
    before = pids(stack)
    file.write_text(f"{session('a')}[gates]\ndeny = ['ACME_GO']\n")
    refused = stack.run("reload", code=6)
    assert "cannot reload: mine is there already: ACME_GO" in refused.stderr
    assert pids(stack) == before
    stack.run("stop", "mine")
    assert "changed    gates.deny" in stack.run("reload").stdout
    assert stack.session("a")["pid"] == before["a"]


def test_a_secret_is_in_no_answer_and_on_no_disk(stack: Stack, file: Path) -> None:
    secrets = stack.cwd / "secrets.env"
    file.write_text(session("a", "env_file = 'secrets.env'"))
    secrets.write_text("DESK_TOKEN=hunter1\n")
    stack.start("-f", str(file))
    secrets.write_text("DESK_TOKEN=hunter2\nB='hunter3'\n")
    told = json.loads(stack.run("drift", "--json", code=5).stdout)["drift"]
    assert [(t["kind"], t["subject"]) for t in told] == [("config-changed", str(secrets))]
    said = stack.run("reload")
    assert stack.run("drift").stdout.startswith("nothing")
    assert "changed    a: env.B, env.DESK_TOKEN (restarted)" in said.stdout
    assert "hunter" not in said.stdout + said.stderr + stack.run("status", "--json").stdout
    written = [path for path in (stack.run_dir).rglob("*") if path.is_file()]
    assert not [path for path in written if b"hunter" in path.read_bytes()]


def test_what_is_only_looked_at_is_not_done(stack: Stack, file: Path) -> None:
    file.write_text(session("a"))
    stack.start("-f", str(file))
    before = pids(stack)
    file.write_text(session("b"))
    assert stack.run("reload", "--dry-run").stdout.splitlines() == [
        "added      b",
        "removed    a",
        "unchanged  0",
    ]
    assert pids(stack) == before


def test_who_was_stopped_by_hand_stays_down_with_its_new_settings(stack: Stack, file: Path) -> None:
    file.write_text(session("a"))
    stack.start("-f", str(file))
    stack.run("stop", "a")
    file.write_text(session("a", seconds=500))
    stack.run("reload")
    assert stack.session("a")["state"] == "stopped"
    stack.run("restart", "a")
    assert stack.session("a")["command"] == ["sleep", "500"]


def test_a_fatal_session_is_tried_again_when_its_command_is_mended(
    stack: Stack, file: Path
) -> None:
    program = stack.cwd / "program"
    program.write_text("no program at all")
    program.chmod(0o755)
    file.write_text("[session.a]\ncommand = './program'\n")
    stack.start("-f", str(file), code=1)
    assert stack.session("a")["state"] == "fatal"
    file.write_text(session("a"))
    assert "a: running" in stack.run("reload").stdout
    assert stack.session("a")["state"] == "running"


def test_the_port_stays_as_long_as_the_supervisor_runs(stack: Stack, file: Path) -> None:
    file.write_text(f"port = {stack.port}\n")
    stack.run("start", "-d")
    file.write_text("port = 1\n")
    assert "ptsup.toml:1: port: this supervisor has" in stack.run("reload", code=2).stderr


def test_an_adopted_fleet_is_reloaded_too(stack: Stack, file: Path) -> None:
    file.write_text(session("a") + session("b"))
    stack.start("-f", str(file))
    before = pids(stack)
    supervisor = stack.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: is_gone(supervisor))
    # What has changed meanwhile counts from the adoption on.
    file.write_text(session("a", "restart = 'always'") + session("b"))
    stack.start("-f", str(file))
    file.write_text(session("a", "restart = 'always'"))
    assert stack.run("reload").stdout.splitlines() == ["removed    b", "unchanged  1"]
    assert pids(stack) == {"a": before["a"]}
    os.kill(before["a"], signal.SIGKILL)
    wait_for(lambda: pids(stack)["a"] not in {None, before["a"]}, what="its restart")


def test_who_was_adopted_is_told_to_run_as_it_was_spawned_until_a_reload_restarts_it(
    stack: Stack, file: Path
) -> None:
    secrets, keep = stack.cwd / "secrets.env", "restart = 'always'"
    secrets.write_text("DESK_TOKEN=hunter1\nKEPT=hunter3\n")
    old = session("a", "env_file = 'secrets.env'") + session("b") + session("c") + session("d")
    file.write_text(old)
    stack.start("-f", str(file))
    before = pids(stack)
    supervisor = stack.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: is_gone(supervisor))
    secrets.write_text("DESK_TOKEN=hunter2\nKEPT=hunter3\n")
    new = session("a", "env_file = 'secrets.env'") + session("b", f"cwd = '/'\n{keep}", 500)
    file.write_text(new + session("c", keep) + session("d", "", 500))
    said = stack.start("-f", str(file)).stderr
    assert said.splitlines() == [
        f"ptsup: {name} (pid {before[name]}) runs already; its new {keys} counts from its next"
        f" start: `ptsup restart {name}`"
        for name, keys in (("a", "env.DESK_TOKEN"), ("b", "command, cwd"), ("d", "command"))
    ]
    assert pids(stack) == before
    told = json.loads(stack.run("drift", "--json", code=5).stdout)["drift"]
    assert [(found["kind"], found["subject"]) for found in told] == [
        *(("config-changed", name) for name in "abd"),
    ]
    assert told[0]["actual"].endswith("with another env.DESK_TOKEN")
    # What is in the file again as it runs needs nothing.
    file.write_text(new + session("c", keep) + session("d"))
    assert stack.run("reload").stdout.splitlines()[:4] == [
        "changed    a: env.DESK_TOKEN (restarted)",
        "changed    b: command, cwd (restarted)",
        "unchanged  2",
        f"ptsup: a: running (pid {stack.session('a')['pid']})",
    ]
    after = pids(stack)
    assert [name for name in before if after[name] == before[name]] == ["c", "d"]
    stack.run("drift")
    written = [path for path in stack.run_dir.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hunter" in path.read_bytes()]


def test_without_a_file_or_a_supervisor_there_is_nothing_to_reload(stack: Stack) -> None:
    assert "nothing runs" in stack.run("reload", code=3).stderr
    stack.start("-s", "a=sleep 600")
    assert "started without a file" in stack.run("reload", code=2).stderr


def has_replaced_metricsd(stack: Stack, former: int) -> bool:
    metricsd = stack.status()["metricsd"]
    return bool(metricsd["state"] == "running" and metricsd["pid"] != former)


def test_labels_and_looks_are_as_written_anew_by_another_metricsd_on_the_same_port(
    stack: Stack, file: Path
) -> None:
    file.write_text(session("a"))
    stack.start("-f", str(file))
    before = stack.status()
    pid = before["metricsd"]["pid"]
    for key, words in (
        ("audit_interval_seconds = 7", ["--look-seconds", "4"]),
        ("allow_labels = ['desk']", ["--look-seconds", "12", "--allow-label", "desk"]),
    ):
        file.write_text(f"{key}\n{session('a')}")
        assert f"{key.partition(' ')[0]}" in stack.run("reload").stdout
        wait_for(
            partial(has_replaced_metricsd, stack, pid), timeout_seconds=30, what=f"one with {key}"
        )
        pid = stack.status()["metricsd"]["pid"]
        assert psutil.Process(pid).cmdline()[-len(words) :] == words
    assert stack.session("a")["pid"] == before["sessions"][0]["pid"]


def test_an_adopted_metricsd_is_replaced_when_other_labels_are_allowed_by_now(
    stack: Stack, file: Path
) -> None:
    file.write_text("allow_labels = ['desk']\n" + session("a"))
    stack.start("-f", str(file))
    before = stack.status()
    for text, same in (("['desk']", True), ("['desk', 'floor']", False)):
        supervisor = stack.status()["supervisor"]["pid"]
        os.kill(supervisor, signal.SIGKILL)
        wait_for(partial(is_gone, supervisor))
        file.write_text(f"allow_labels = {text}\n" + session("a"))
        stack.start("-f", str(file))
        after = stack.status()
        assert (after["metricsd"]["pid"] == before["metricsd"]["pid"]) is same
    assert "floor" in psutil.Process(after["metricsd"]["pid"]).cmdline()
    assert stack.session("a")["pid"] == before["sessions"][0]["pid"]


def test_an_exporter_is_reloaded_like_a_session(stack: Stack, file: Path) -> None:
    port = find_free_port()
    exporter = (
        f"[exporter.e]\ncommand = ['{sys.executable}', '-m', 'http.server', '{port}']\n"
        f"port = {port}\n"
    )
    file.write_text(session("a"))
    stack.start("-f", str(file))
    file.write_text(session("a") + exporter)
    assert "added      e" in stack.run("reload").stdout
    (found,) = stack.status()["exporters"]
    assert found["state"] == "running"
    file.write_text(session("a"))
    assert "removed    e" in stack.run("reload").stdout
    assert stack.status()["exporters"] == []


def test_a_file_that_came_through_a_pipe_is_not_gone_back_to(stack: Stack) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"[session.a]\ncommand = 'sleep 600'\n")
    os.close(writer)
    command = [
        str(BIN / "ptsup"),
        "start",
        "-d",
        "--port",
        str(stack.port),
        "-f",
        f"/dev/fd/{reader}",
    ]
    subprocess.run(
        command, cwd=stack.cwd, env=stack.env, pass_fds=(reader,), check=True, capture_output=True
    )
    os.close(reader)
    assert stack.run("drift").stdout.startswith("nothing")
    assert "started without a file" in stack.run("reload", code=2).stderr


def test_a_readiness_mended_while_it_is_waited_for_counts(stack: Stack, file: Path) -> None:
    port = find_free_port()
    text = session("a").replace("sleep 600", f"{sys.executable} -m http.server {port}")
    file.write_text(f"{text}ready = {{ port = {find_free_port()} }}\n")
    starting = stack.popen("start", "-d", "--port", str(stack.port), "-f", str(file))
    assert starting.stderr is not None
    assert starting.stderr.readline() == "ptsup: waits for a to be ready\n"
    before = stack.wait_for_state("a", "starting")
    file.write_text(f"{text}ready = {{ port = {port} }}\n")
    stack.run("reload")
    assert "a: running" in starting.communicate(timeout=30)[0]
    assert stack.session("a")["pid"] == before["pid"]


def test_one_that_is_put_back_while_it_is_still_leaving_comes_back(
    stack: Stack, file: Path
) -> None:
    deaf = child("ignores_term")
    a, c = (f"[session.{name}]\ncommand = '{deaf}'\n" for name in "ac")
    file.write_text(a + session("b") + c)
    stack.start("-f", str(file))
    for name in ("a", "c"):
        stack.wait_for_log(name, "deaf")
    before = pids(stack)
    file.write_text(session("b"))
    removing = stack.popen("reload")
    for name in ("a", "c"):
        stack.wait_for_state(name, "stopping", timeout=30)
    file.write_text(a + session("b") + session("c"))
    returning = stack.popen("reload")
    wait_for(lambda: stack.session("c")["target"] == "up", timeout_seconds=30, what="its new wish")
    # Whom the first one removed is here to stay: it waits no longer.
    said, _ = removing.communicate(timeout=30)
    assert sorted(said.splitlines()) == ["removed    a", "removed    c", "unchanged  1"]
    for name in ("a", "c"):
        os.kill(before[name], signal.SIGKILL)
    said, _ = returning.communicate(timeout=30)
    assert said.splitlines()[:3] == [
        "changed    a: session (restarted)",
        "changed    c: command, session (restarted)",
        "unchanged  1",
    ]
    assert (removing.returncode, returning.returncode) == (0, 0)
    found = [(s["name"], s["state"], s["incarnation"]) for s in stack.status()["sessions"]]
    assert found == [("a", "running", 2), ("b", "running", 1), ("c", "running", 2)]
