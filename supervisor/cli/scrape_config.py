"""`ptsup scrape-config`: the wiring, to paste into a prometheus.yml."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from supervisor.cli.options import read_config, run_dir_option
from supervisor.config import SUPERVISOR
from supervisor.config.flags import Flags
from supervisor.scrape_config import DEFAULT_HOST, render_scrape_config

if TYPE_CHECKING:
    from supervisor.rundir import RunDir


@click.command(
    "scrape-config",
    short_help="Print what Prometheus needs to know.",
    epilog="""\b
examples:
  ptsup scrape-config                        for a Prometheus in a container
  ptsup scrape-config --host 127.0.0.1       for one on this machine""",
)
@click.option(
    "--host",
    metavar="ADDR",
    default=DEFAULT_HOST,
    show_default=True,
    help="What Prometheus calls this machine.",
)
@run_dir_option
def scrape_config(host: str, run_dir: RunDir) -> int:
    """Print what Prometheus needs to know: the scrape_configs section of its file."""
    own = run_dir.read_states().get(SUPERVISOR)
    port = own["port"] if own else read_config(None, Flags(), frozenset()).port
    click.echo(render_scrape_config(host, port), nl=False)
    return 0
