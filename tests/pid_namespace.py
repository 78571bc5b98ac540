"""Pids of our own, and a say in which comes next: where root, unshare and the kernel permit it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

import pytest

UNSHARE: Final = ("unshare", "--pid", "--fork", "--mount-proc")


def _may_choose_pids() -> bool:
    if os.getuid() != 0 or shutil.which("unshare") is None:
        return False
    script = "echo 99 > /proc/sys/kernel/ns_last_pid"
    done = subprocess.run([*UNSHARE, "sh", "-c", script], capture_output=True, check=False)
    return done.returncode == 0


NEEDS_PIDS: Final = pytest.mark.skipif(
    not _may_choose_pids(), reason="needs root, unshare (util-linux) and ns_last_pid"
)
