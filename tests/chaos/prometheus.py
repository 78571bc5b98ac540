"""A real Prometheus beside the storm, and what it says in the end."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from chaos.events import Request
from stack import find_free_port
from waiting import wait_for

if TYPE_CHECKING:
    from chaos.events import EventLog
    from stack import Stack

INTERVAL_SECONDS = 5
JOB = 'job="peak_trade_metricsd"'


class Prometheus:
    """Scrapes a stack as `ptsup scrape-config` says, every 5 seconds, until it is closed."""

    def __init__(self, stack: Stack) -> None:
        config = stack.cwd / "prometheus.yml"
        printed = stack.run("scrape-config", "--host", "127.0.0.1").stdout
        every = f"scrape_interval: {INTERVAL_SECONDS}s, scrape_timeout: {INTERVAL_SECONDS}s"
        config.write_text(f"global: {{{every}}}\n{printed}")
        self.port = find_free_port()
        with (stack.cwd / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={stack.cwd / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an instant query; a range gives the samples as they were stored."""
        parameters = urllib.parse.urlencode({"query": expression})
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{parameters}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def wait_until_it_scraped(self) -> None:
        def scraped() -> bool:
            try:
                return bool(self.query(f"up{{{JOB}}}"))
            except OSError:
                return False

        wait_for(scraped, timeout_seconds=30, what="the first scrape by Prometheus")

    def find_scrapes(self, log: EventLog) -> list[Request]:
        """List all scrapes: when they began and ended, and whether `up` was 1."""
        (ups,) = self.query(f"up{{{JOB}}}[1h]")
        (durations,) = self.query(f"scrape_duration_seconds{{{JOB}}}[1h]")
        took = {at: float(value) for at, value in durations["values"]}
        offset = log.began - log.wall_began
        return [
            Request(
                "Prometheus",
                number,
                True,
                at + offset - 0.05,  # scrapes are stored at the moment they were due
                at + offset + took.get(at, 0.0) + 0.05,
                "200" if value == "1" else f"up was {value}",
            )
            for number, (at, value) in enumerate(ups["values"], 1)
        ]

    def find_falls(self) -> list[str]:
        """List the counters that fell, as they were stored."""
        falls = []
        matcher = f'{{__name__=~"(chaos|peaktrade)_.+_(total|count|bucket)",{JOB}}}'
        for entry in self.query(f"{matcher}[1h]"):
            values = [float(value) for _, value in entry["values"]]
            for value, following in pairwise(values):
                if following < value:
                    falls.append(f"{entry['metric']} fell from {value:g} to {following:g}")
        return falls
