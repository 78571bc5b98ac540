"""Double-forks a worker that counts a metric, then dies and is nobody's child but the reaper's."""

import os
import sys
import time

from telemetry import ensure_registered, inc_risk_block

if os.fork() == 0:
    if os.fork() == 0:
        ensure_registered()
        inc_risk_block(reason="runtime:halt")
        sys.stdout.write(f"orphan {os.getpid()}\n")
        sys.stdout.flush()
        time.sleep(0.3)
    os._exit(0)
time.sleep(600)
