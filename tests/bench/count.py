"""One session that counts: says, for each line it is given, how long an increment took.

`in-process` and `multiprocess` are prometheus_client alone, `kept` with the series looked up
once, `ours` is telemetry's own call in Mode B.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def build_increment(kind: str) -> Callable[[], None]:
    if kind == "ours":
        import telemetry

        telemetry.ensure_registered()
        return lambda: telemetry.inc_strategy_signal(strategy_id="ma_crossover", signal="long")
    from prometheus_client import Counter

    counter = Counter("peaktrade_strategy_signals", "Signals.", ("strategy_id", "signal"))
    if kind == "kept":
        return counter.labels("ma_crossover", "long").inc
    return lambda: counter.labels("ma_crossover", "long").inc()


def main() -> None:
    increment = build_increment(sys.argv[1])
    for line in sys.stdin:
        many = range(int(line))
        began = time.perf_counter()
        for _ in many:
            increment()
        print((time.perf_counter() - began) / len(many), flush=True)


if __name__ == "__main__":
    main()
