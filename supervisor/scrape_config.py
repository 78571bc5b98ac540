"""The Prometheus side of the wiring, as text to paste or to load. Pure."""

from __future__ import annotations

import json
from typing import Final

from telemetry.mode import render_address

JOB_NAME: Final = "peak_trade_metricsd"
# What a Prometheus in a container calls the machine it runs on.
DEFAULT_HOST: Final = "host.docker.internal"


def render_scrape_config(host: str, port: int) -> str:
    """Write the `scrape_configs` section of a prometheus.yml: one job, metricsd."""
    # A JSON string is a YAML string, whatever the host holds.
    target = json.dumps(render_address(host, port))
    return (
        "scrape_configs:\n"
        f"  - job_name: {JOB_NAME}\n"
        "    static_configs:\n"
        f"      - targets: [{target}]\n"
    )
