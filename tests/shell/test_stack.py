"""What the tests stand on: no two of them, nor two runs of them, take the same port."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stack import BLOCK, find_free_port


def test_two_runs_at_the_same_time_never_find_the_same_port() -> None:
    ours = {find_free_port() for _ in range(BLOCK + 1)}
    program = (
        f"from stack import find_free_port\nfor _ in range({BLOCK + 1}): print(find_free_port())"
    )
    other = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = set(map(int, other.stdout.split()))
    assert min(len(ours), len(theirs)) > BLOCK / 2  # some may be held by servers of other tests
    assert not theirs & ours
