"""The way in: `ptsup` and its commands, of which it imports the one that is asked for."""

from __future__ import annotations

from typing import Final, NoReturn

import click

import supervisor
from supervisor.cli.outcome import run

NAMES: Final = (
    *("doctor", "drift", "init", "logs", "reload", "restart", "scrape-config", "start", "status"),
    *("stop", "verify"),
)


class Commands(click.Group):
    """The commands, each imported when it is asked for: the others would double its start."""

    def list_commands(self, _context: click.Context | None = None) -> list[str]:
        """Name them all."""
        return list(NAMES)

    def get_command(self, _context: click.Context | None, name: str) -> click.Command | None:
        """Import one; None when there is none of that name."""
        return _import(name)


def _import(name: str) -> click.Command | None:  # noqa: C901 - one case each
    match name:
        case "doctor":
            from supervisor.cli.doctor import doctor

            return doctor
        case "drift":
            from supervisor.cli.drift import drift

            return drift
        case "init":
            from supervisor.cli.init import init

            return init
        case "logs":
            from supervisor.cli.logs import logs

            return logs
        case "reload":
            from supervisor.cli.reload import reload

            return reload
        case "restart":
            from supervisor.cli.stop import restart

            return restart
        case "scrape-config":
            from supervisor.cli.scrape_config import scrape_config

            return scrape_config
        case "start":
            from supervisor.cli.start import start

            return start
        case "status":
            from supervisor.cli.status import status

            return status
        case "stop":
            from supervisor.cli.stop import stop

            return stop
        case "verify":
            from supervisor.cli.verify import verify

            return verify
        case _:
            return None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(supervisor.__version__, prog_name="ptsup")
def cli() -> None:
    """Keep shadow/paper trading sessions and their Prometheus exporter alive.

    One metricsd on one port, always on; sessions come and go beside it.
    """


def main() -> NoReturn:
    """Run `ptsup`."""
    run(cli, "ptsup")
