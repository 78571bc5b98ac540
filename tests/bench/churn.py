"""Sessions come and go, at a pace, until stdin ends; then it says how many did.

`births`: shards appear in every directory given; the oldest session's are claimed in the first
and marked dead, as stock wishes it, in the second. `claims`: whole claims of dead sessions
appear in the first directory, one session each, as if the supervisor had been told of it.
"""

from __future__ import annotations

import select
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.multiprocess import mark_process_dead

from bench.population import build_counter_keys, build_gauge_keys, make_template
from telemetry.claim import claim
from telemetry.shards import RETIRED

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST = 1_200_000_001
# Above every number that the base may have.
FIRST_CLAIM = 1000
# A pause longer than this is not made up for.
_BACKLOG_SECONDS = 0.1


class Births:
    def __init__(self, directories: list[Path], series: int, living: int) -> None:
        self.ours, self.stock = directories
        self.living = living
        self.pids: deque[int] = deque()
        self.number = 0
        keys, gauges = build_counter_keys(series), build_gauge_keys()
        self.templates = [make_template("counter", keys), make_template("gauge_livemax", gauges)]

    def step(self, pid: int) -> None:
        for template in self.templates:
            # Under another name first: stock would answer 500 if it found it empty.
            path = self.ours / f"{template.prefix}_{pid}.db"
            hidden = self.ours.parent / path.name
            template.write(hidden, pid % 1000)
            (self.stock / path.name).hardlink_to(hidden)
            hidden.rename(path)
        self.pids.append(pid)
        if len(self.pids) > self.living:
            died = self.pids.popleft()
            self.number = claim(self.ours, died, pinned=True, after=self.number).number
            mark_process_dead(died, path=str(self.stock))  # type: ignore[no-untyped-call]


class Claims:
    def __init__(self, directories: list[Path], series: int) -> None:
        self.directory = directories[0]
        self.template = make_template("counter", build_counter_keys(series))

    def step(self, pid: int) -> None:
        number = FIRST_CLAIM + pid - FIRST
        made = self.directory.parent / f"claim-{number}"
        made.mkdir(mode=0o700)
        self.template.write(made / f"counter_{pid}.db", pid % 1000)
        made.rename(self.directory / RETIRED / made.name)


def keep_pace(step: Callable[[int], None], per_second: float) -> int:
    pid, due = FIRST, time.monotonic()
    while True:
        wait = max(0.0, due - time.monotonic())
        if select.select([sys.stdin], [], [], wait)[0]:
            return pid - FIRST
        step(pid)
        pid += 1
        due = max(due + 1 / per_second, time.monotonic() - _BACKLOG_SECONDS)


def main() -> None:
    kind, per_second, series, living, *directories = sys.argv[1:]
    paths = [Path(directory) for directory in directories]
    if kind == "births":
        step = Births(paths, int(series), int(living)).step
    else:
        step = Claims(paths, int(series)).step
    print("ready", flush=True)
    began = time.monotonic()
    count = keep_pace(step, float(per_second))
    print(count, time.monotonic() - began, flush=True)


if __name__ == "__main__":
    main()
