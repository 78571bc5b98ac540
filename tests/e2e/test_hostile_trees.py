"""A stop ends, whatever a session has become, and touches nobody else.

`make trees TREES=200` is the long form.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

from stack import CHILDREN
from supervisor.client import ask_running
from supervisor.control import Request
from supervisor.rundir import RunDir
from telemetry.processes import is_alive
from waiting import wait_for

if TYPE_CHECKING:
    from stack import Stack

TREES: Final = int(os.environ.get("PTSUP_TREES") or 20)
AT_ONCE: Final = max(10, TREES // 4)
KINDS: Final = ("deaf", "escape", "dying", "chain", "log")
READY: Final = {"deaf": 2, "escape": 2, "dying": 1, "chain": 6, "log": 2, "newborn": 1}
OBEYING: Final = (*KINDS, "newborn")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper"),
    pytest.mark.timeout(120 + 2 * TREES),
]


def tree(kind: str, *options: str) -> str:
    return " ".join([sys.executable, str(CHILDREN / "hostile_tree.py"), kind, *options])


def wait_until_up(stack: Stack, name: str, kind: str) -> None:
    wait_for(
        lambda: stack.read_log(name).count("ready") >= READY[kind],
        timeout_seconds=60,
        what=f"the whole tree of {name}",
    )


def find_pids(stack: Stack, name: str) -> set[int]:
    """Find whoever ever said its pid in the log of a session."""
    return {int(pid) for pid in re.findall(r"pid (\d+)", stack.read_log(name))}


def stop(stack: Stack, *names: str, timeout_seconds: float) -> float:
    """Stop sessions without the command, which takes its own time to start; give the seconds."""
    request = Request("stop", {"names": list(names), "timeout_seconds": timeout_seconds})
    began = time.monotonic()
    ask_running(RunDir(stack.run_dir), request)
    return time.monotonic() - began


def test_hostile_trees_are_gone_a_second_after_the_timeout_and_bystanders_stay(
    stack: Stack,
) -> None:
    with subprocess.Popen(["sleep", "600"], cwd=stack.cwd, start_new_session=True) as bystander:
        stack.start()
        ended, longest = 0, 0.0
        for first in range(0, TREES, AT_ONCE):
            names = {
                f"t{n}": KINDS[n % len(KINDS)] for n in range(first, min(first + AT_ONCE, TREES))
            }
            flags = [word for n, kind in names.items() for word in ("-s", f"{n}={tree(kind)}")]
            stack.start(*flags)
            for name, kind in names.items():
                wait_until_up(stack, name, kind)
            longest = max(longest, stop(stack, *names, timeout_seconds=1))
            assert longest <= 2
            for name in names:
                pids = find_pids(stack, name)
                assert not [pid for pid in pids if is_alive(pid)], name
                ended += len(pids)
        assert bystander.poll() is None
        print(
            f"{TREES} hostile trees of {ended} processes ended, none survived; a stop of {AT_ONCE} "
            f"with a timeout of 1 s took at most {longest:.2f} s; a bystander lives"
        )
        stack.run("stop")
        bystander.kill()
    stack.assert_nothing_left()


@pytest.mark.parametrize("adopted", [False, True])
def test_what_a_crashed_leader_left_is_gone_before_its_next_incarnation(
    stack: Stack, *, adopted: bool
) -> None:
    (stack.cwd / "ptsup.toml").write_text(
        "".join(
            f'[session.{kind}]\ncommand = "{tree(kind)}"\nrestart = "always"\n'
            "stop_timeout_seconds = 0.5\n"
            for kind in KINDS
        )
    )
    stack.start()
    for kind in KINDS:
        wait_until_up(stack, kind, kind)
    if adopted:
        os.kill(stack.status()["supervisor"]["pid"], 9)
        wait_for(lambda: stack.run("status", code=None).returncode == 4, what="the crash")
        stack.start()
    for kind in KINDS:
        leader = stack.session(kind)["pid"]
        former = find_pids(stack, kind)
        assert leader in former
        os.kill(leader, 9)
        wait_for(
            lambda kind=kind: stack.session(kind)["incarnation"] == 2,  # type: ignore[misc]
            what="the next incarnation",
        )
        assert not [pid for pid in former if is_alive(pid)], kind


@pytest.mark.parametrize("whose", ["ours", "adopted", "nobody's"])
def test_a_tree_that_obeys_is_not_waited_for(stack: Stack, whose: str) -> None:
    stack.start(*(w for kind in OBEYING for w in ("-s", f"{kind}={tree(kind, '--gentle')}")))
    for kind in OBEYING:
        wait_until_up(stack, kind, kind)
    if whose != "ours":
        os.kill(stack.status()["supervisor"]["pid"], 9)
        wait_for(lambda: stack.run("status", code=None).returncode == 4, what="the crash")
    if whose == "adopted":
        stack.start()
    began = time.monotonic()
    stack.run("stop", *(OBEYING if whose != "nobody's" else ()), "--timeout", "60")
    assert time.monotonic() - began < 20
    for kind in OBEYING:
        assert not [pid for pid in find_pids(stack, kind) if is_alive(pid)], kind
