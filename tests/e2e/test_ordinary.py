"""An ordinary run, ten sessions coming and going: nothing drifts, so nothing is found.

Seconds here; `make ordinary` takes ten minutes (PTSUP_ORDINARY_SECONDS).
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Final

import pytest

from stack import SHADOW
from supervisor.drift import KINDS

if TYPE_CHECKING:
    from stack import Stack

SECONDS: Final = float(os.environ.get("PTSUP_ORDINARY_SECONDS", "6"))
SESSIONS: Final = [f"s{number}" for number in range(10)]


@pytest.mark.timeout(SECONDS + 120)
def test_of_ten_sessions_that_come_and_go_nothing_is_found(stack: Stack) -> None:
    chance = random.Random(1)
    (stack.cwd / "ordinary.toml").write_text("audit_interval_seconds = 2\n")
    stack.start("-f", "ordinary.toml", *_build_flags(chance, SESSIONS))
    end = time.monotonic() + SECONDS
    looks = turns = 0
    while time.monotonic() < end:
        document = stack.status()
        assert document["drift"] == []
        looks += 1
        states = {session["name"]: session["state"] for session in document["sessions"]}
        ended = [name for name, state in states.items() if state in {"exited", "stopped"}]
        living = [name for name, state in states.items() if state == "running"]
        if ended:  # by itself, or stopped: it comes again
            stack.run("start", "-d", *_build_flags(chance, ended))
        if len(living) > 2:
            stopped, restarted = chance.sample(living, 2)
            stack.run("stop", stopped, code=None)  # it may just have ended by itself
            stack.run("restart", restarted, code=None)
        stack.scrape()
        turns += len(ended) + 2
    assert stack.run("drift").stdout == "nothing: all is as planned\n"
    stack.run("stop")
    log = (stack.run_dir / "logs" / "supervisor.log").read_text()
    assert not [line for line in log.splitlines() if any(f" {kind}: " in line for kind in KINDS)]
    assert "Traceback" not in log
    stack.assert_nothing_left()
    print(f"\n{SECONDS:g} s: {looks} looks, {turns} sessions came or went, 0 findings")


def _build_flags(chance: random.Random, names: list[str]) -> list[str]:
    return [
        word
        for name in names
        for word in ("-s", f"{name}={SHADOW} --speed {chance.choice([50, 200, 800])}")
    ]
