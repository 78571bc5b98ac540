"""The Prometheus side of the wiring, as text to paste, to load or to serve. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from telemetry.mode import find_probe_host, render_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from supervisor.config import Config

JOB_NAME: Final = "peak_trade_metricsd"
# Sessions in mode A, which have a page of their own: the runbook's name for them.
SESSION_JOB_NAME: Final = "peak_trade_session"
DEFAULT_PATH: Final = "/metrics"
# What a Prometheus in a container calls the machine it runs on.
DEFAULT_HOST: Final = "host.docker.internal"


@dataclass(frozen=True, slots=True)
class Target:
    """One page to scrape: the job it is scraped as, and where it answers on this machine."""

    job: str
    port: int
    path: str = DEFAULT_PATH
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """Give the URL to ask at, here."""
        return f"http://{render_address(self.host, self.port)}{quote(self.path)}"


def find_targets(status: Mapping[str, Any]) -> list[Target]:
    """Find what a status document has to scrape: metricsd, exporters, sessions in mode A.

    What is wanted up counts, whether it is so at the moment or not.
    """
    host = find_probe_host(status["port"]["host"])
    found = [Target(JOB_NAME, status["port"]["port"], host=host)]
    for exporter in status["exporters"]:
        if exporter.get("port") and exporter.get("target", "up") == "up":
            path = exporter.get("path") or DEFAULT_PATH
            found.append(Target(name_job(exporter["name"]), exporter["port"], path))
    return found + [
        Target(SESSION_JOB_NAME, session["port"])
        for session in status["sessions"]
        if session.get("mode") == "A" and session.get("port") and session["target"] == "up"
    ]


def find_configured(config: Config) -> list[Target]:
    """Find what a configuration has to scrape, before any of it runs."""
    return [
        Target(JOB_NAME, config.port, host=find_probe_host(config.host)),
        *(Target(name_job(s.name), s.port, s.path) for s in config.exporters if s.port),
        *(Target(SESSION_JOB_NAME, s.port) for s in config.sessions if s.port),
    ]


def name_job(exporter: str) -> str:
    """Name the job of an exporter: `peak_trade_ai_live`."""
    job = f"peak_trade_{exporter}"
    return f"{job}_exporter" if job in {JOB_NAME, SESSION_JOB_NAME} else job


def render_scrape_config(host: str, targets: Iterable[Target]) -> str:
    """Write the `scrape_configs` section of a prometheus.yml, a job for each name."""
    jobs: dict[tuple[str, str], list[str]] = {}
    for target in targets:
        jobs.setdefault((target.job, target.path), []).append(render_address(host, target.port))
    lines = ["scrape_configs:"]
    for (job, path), addresses in jobs.items():
        # A JSON string is a YAML string, whatever the host or the path holds.
        lines.append(f"  - job_name: {job}")
        if path != DEFAULT_PATH:
            lines.append(f"    metrics_path: {json.dumps(path)}")
        lines.append("    static_configs:")
        lines.append(f"      - targets: {json.dumps(addresses)}")
    return "\n".join(lines) + "\n"


def render_discovery(host: str, targets: Sequence[Target]) -> str:
    """Write the document that file_sd reads and http_sd is answered with: they are the same.

    The labels of a group stand above what the job that discovers it says.
    """
    groups = []
    for target in targets:
        labels = {"job": target.job}
        if target.path != DEFAULT_PATH:
            labels["__metrics_path__"] = target.path
        groups.append({"targets": [render_address(host, target.port)], "labels": labels})
    return json.dumps(groups, indent=2) + "\n"
