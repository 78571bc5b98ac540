"""Leaves its session's group with a worker that counts once more when it is told to end."""

import os
import signal
import sys
import time
from types import FrameType

from telemetry import ensure_registered, inc_risk_block


def count_and_end(_number: int, _frame: FrameType | None) -> None:
    """Count the last one, and go."""
    inc_risk_block(reason="runtime:halt")
    sys.exit(0)


if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ensure_registered()
        inc_risk_block(reason="runtime:halt")
        signal.signal(signal.SIGTERM, count_and_end)
        sys.stdout.write(f"escaped {os.getpid()}\n")
        sys.stdout.flush()
        time.sleep(600)
    os._exit(0)
time.sleep(600)
