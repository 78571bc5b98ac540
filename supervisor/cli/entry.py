"""The way in: `ptsup` and its commands."""

from __future__ import annotations

from typing import NoReturn

import click

import supervisor
from supervisor.cli.doctor import doctor
from supervisor.cli.drift import drift
from supervisor.cli.init import init
from supervisor.cli.logs import logs
from supervisor.cli.outcome import run
from supervisor.cli.reload import reload
from supervisor.cli.scrape_config import scrape_config
from supervisor.cli.start import start
from supervisor.cli.status import status
from supervisor.cli.stop import restart, stop
from supervisor.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(supervisor.__version__, prog_name="ptsup")
def cli() -> None:
    """Keep shadow/paper trading sessions and their Prometheus exporter alive.

    One metricsd on one port, always on; sessions come and go beside it.
    """


for command in (
    start,
    stop,
    restart,
    reload,
    status,
    drift,
    doctor,
    logs,
    init,
    scrape_config,
    verify,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run `ptsup`."""
    run(cli, "ptsup")
