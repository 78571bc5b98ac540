"""A session that does what sessions should not, until the file DIR/mend is there.

usage: drifts.py DIR WHAT; it says `ready` once it has done it.

labels   counts a series with the label symbol, and one with run_id, through prometheus_client
listens  listens on a port, which it writes to DIR/port
silent   writes no shard before it is mended, then counts
stale    counts once, and not again before it is mended; then it goes on
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

place, what = Path(sys.argv[1]), sys.argv[2]


def count() -> None:
    from telemetry import ensure_registered, inc_risk_check

    ensure_registered()
    inc_risk_check(check="runtime_risk.evaluate_pre_order", result="allow")


listener = None
match what:
    case "labels":
        from prometheus_client import Counter

        Counter("drifting_trades", "Trades.", ["symbol"]).labels("EURUSD").inc()
        Counter("drifting_runs", "Runs.", ["run_id"]).labels("r1").inc()
    case "listens":
        listener = socket.create_server(("127.0.0.1", 0))
        (place / "port").write_text(str(listener.getsockname()[1]))
    case "stale":
        count()
    case _:
        pass
print("ready", flush=True)
while not (place / "mend").exists():
    time.sleep(0.05)
if listener is not None:
    listener.close()
while what in {"silent", "stale"}:
    count()
    time.sleep(0.2)
time.sleep(600)
