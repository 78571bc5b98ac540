"""Forks workers one after the other, each counting a metric, and reaps them itself."""

import os
import sys
import time

from telemetry import ensure_registered, inc_risk_block

for _ in range(3):
    worker = os.fork()
    if worker == 0:
        ensure_registered()
        inc_risk_block(reason="runtime:halt")
        os._exit(0)
    os.waitpid(worker, 0)
    sys.stdout.write(f"reaped {worker}\n")
    sys.stdout.flush()
sys.stdout.write("done\n")
sys.stdout.flush()
time.sleep(600)
