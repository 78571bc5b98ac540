"""`ptsup scrape-config`: the wiring, to paste into a prometheus.yml or to be discovered by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from supervisor.cli.options import read_config, run_dir_option
from supervisor.config.flags import Flags
from supervisor.errors import NothingRunsError
from supervisor.report import read_report
from supervisor.scrape_config import (
    DEFAULT_HOST,
    find_configured,
    find_targets,
    render_discovery,
    render_scrape_config,
)

if TYPE_CHECKING:
    from supervisor.rundir import RunDir
    from supervisor.scrape_config import Target


@click.command(
    "scrape-config",
    short_help="Print what Prometheus needs to know.",
    epilog="""\b
examples:
  ptsup scrape-config                        for a Prometheus in a container
  ptsup scrape-config --host 127.0.0.1       for one on this machine
  ptsup scrape-config --format file_sd > targets.json""",
)
@click.option(
    "--host",
    metavar="ADDR",
    default=DEFAULT_HOST,
    show_default=True,
    help="What Prometheus calls this machine.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["static", "file_sd", "http_sd"]),
    default="static",
    show_default=True,
    help="The scrape_configs section, or the JSON that file_sd reads and http_sd is answered with.",
)
@run_dir_option
def scrape_config(host: str, form: str, run_dir: RunDir) -> int:
    """Print what Prometheus needs to know: a job for each page that runs here.

    They are metricsd, the exporters, and the sessions in mode A. When nothing runs: what
    ptsup.toml in this directory names.
    """
    targets = _find_targets(run_dir)
    render = render_scrape_config if form == "static" else render_discovery
    click.echo(render(host, targets), nl=False)
    return 0


def _find_targets(run_dir: RunDir) -> list[Target]:
    """Read what there is to scrape: from what runs or ran, else from the configuration."""
    try:
        document, _ = read_report(run_dir)
        if document["port"]["port"]:
            return find_targets(document)
    except NothingRunsError:
        pass
    return find_configured(read_config(None, Flags(), frozenset()))
