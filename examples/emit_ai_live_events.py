"""Writes sample events for the AI live exporter: the same ones every time, one JSON line each.

It appends, as a session would, so that an exporter that follows the file loses nothing. Only the
times (`ts_utc`) are those of the run; `--epoch` fixes them, too. Nothing here trades.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# What happens again and again: decision, reason, action, latency in milliseconds.
CYCLE = (
    ("accept", "none", "submit", 85.0),
    ("reject", "risk_limit", "none", 10.0),
    ("noop", "no_signal", "none", 2.0),
    ("accept", "none", "order_intent", 40.0),
    ("reject", "governance_no_live", "none", 0.5),
    ("noop", "market_closed", "none", 1.0),
    ("accept", "none", "fill", 600.0),
    ("reject", "cooldown", "none", 4.0),
)


def build_event(number: int, epoch: float, *, run_id: str, component: str) -> dict[str, Any]:
    """Build the event of that number, counted from 0; it happened at `epoch`."""
    decision, reason, action, latency_ms = CYCLE[number % len(CYCLE)]
    moment = datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")
    return {
        "v": 1,
        "ts_utc": moment.replace("+00:00", "Z"),
        "run_id": run_id,
        "component": component,
        "decision": decision,
        "reason": reason,
        "action": action,
        "latency_ms": latency_ms,
    }


def main() -> int:
    """Write the events, one each interval."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the file to append to")
    parser.add_argument("--n", type=int, default=50, help="how many events (50)")
    parser.add_argument("--interval-ms", type=float, default=200, help="from one to the next (200)")
    parser.add_argument("--run-id", default="demo", help="(demo)")
    parser.add_argument("--component", default="execution_watch", help="(execution_watch)")
    parser.add_argument("--epoch", type=float, help="the time of the first event (now)")
    options = parser.parse_args()
    if options.n < 0 or options.interval_ms < 0:
        parser.error("--n and --interval-ms cannot be negative")
    interval = options.interval_ms / 1000
    began = time.time() if options.epoch is None else options.epoch
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a", encoding="utf-8") as out:
            for number in range(options.n):
                if number:
                    time.sleep(interval)
                event = build_event(
                    number,
                    began + number * interval,
                    run_id=options.run_id,
                    component=options.component,
                )
                # One write for each line: who reads meanwhile sees whole ones.
                out.write(json.dumps(event, separators=(",", ":")) + "\n")
                out.flush()
    except OSError as error:
        sys.stderr.write(f"emit_ai_live_events: cannot write {options.out}: {error.strerror}\n")
        return 1
    print(f"{options.n} events appended to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
