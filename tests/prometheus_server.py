"""A real Prometheus for one test, and what it says."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stack import find_free_port
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stack import Series

UP = 'up{job="peak_trade_metricsd"}'
EVERY_SECOND = "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"


@dataclass
class Prometheus:
    port: int
    config: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=10) as answer:
            return json.load(answer)

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1):
                return True
        except OSError:
            return False

    def query(self, expression: str) -> dict[Series, float]:
        """Evaluate an instant query: values by name and labels, less job and instance."""
        found = {}
        for entry in self.get("/api/v1/query", query=expression)["data"]["result"]:
            labels = dict(entry["metric"])
            name = labels.pop("__name__", "")
            labels.pop("job", None)
            labels.pop("instance", None)
            found[name, tuple(sorted(labels.items()))] = float(entry["value"][1])
        return found

    def value(self, expression: str) -> float | None:
        return next(iter(self.query(expression).values()), None)

    def health(self) -> dict[str, str]:
        """Say how each job's target is."""
        active = self.get("/api/v1/targets")["data"]["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in active}

    def reload(self, scrape_configs: str) -> None:
        self.config.write_text(f"{EVERY_SECOND}{scrape_configs}")
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def running_prometheus(
    cwd: Path, scrape_configs: str, port: int | None = None
) -> Iterator[Prometheus]:
    """Run one that scrapes every second, from its readiness to the end of the block."""
    config = cwd / "prometheus.yml"
    config.write_text(f"{EVERY_SECOND}{scrape_configs}")
    subprocess.run(["promtool", "check", "config", str(config)], check=True, capture_output=True)
    port = port or find_free_port()
    with (cwd / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={cwd / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
                # Every scrape counts for a query at once, not only the ones five minutes apart.
                "--query.lookback-delta=5m",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        made = Prometheus(port, config, process)
        wait_for(made.ready, timeout_seconds=30, what="Prometheus to be ready")
        yield made
    finally:
        process.kill()
        process.wait()
