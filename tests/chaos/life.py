"""A session of the storm of takeovers: each increment first in a ledger, and its end as well.

    life.py DIRECTORY NAME SECONDS END

END is an exit code or the name of a signal. TERM ends it between two increments, with 0.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import telemetry

directory, name, seconds, end = sys.argv[1:5]
asked: list[int] = []
signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
path = Path(directory, f"{name}.{os.getpid()}")
ledger = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
telemetry.ensure_registered()
deadline = time.monotonic() + float(seconds)
while time.monotonic() < deadline and not asked:
    os.write(ledger, b"1\n")
    telemetry.inc_risk_block(reason="runtime:halt")
    time.sleep(0.01)
end = "0" if asked else end
os.write(ledger, f"end {end}\n".encode())
if not end.isdigit():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.Signals[end])
os._exit(int(end))
