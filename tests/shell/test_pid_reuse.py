"""A pid that is given to another process at once: never a wrong claim, mark or signal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from pid_namespace import NEEDS_PIDS, UNSHARE

CHILDREN: Final = Path(__file__).resolve().parent.parent / "children"


@NEEDS_PIDS
def test_shards_and_signals_of_a_dead_process_never_meet_the_next_one_of_its_pid(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "prom_multiproc"
    directory.mkdir()
    done = subprocess.run(
        [*UNSHARE, sys.executable, str(CHILDREN / "reuses_pid.py"), str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
    assert json.loads(done.stdout) == {
        "names": 5,
        "same identity": False,
        "unowned": [],
        "claimed": [],
        "returned": 5,
        "all there": True,
        "lives": True,
        "unowned at last": [200],
        "number": 1,
        "left": [],
        "sales": 4.0,  # two of the first, and two of the second, which went on in its shard
        "unowned after all": [],
        "sales after all": 6.0,
    }
