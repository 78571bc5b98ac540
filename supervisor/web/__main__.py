"""`python -m supervisor.web`: the watch-only page on a port of its own."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import click
import uvicorn

from supervisor.cli.options import PORT, run_dir_option
from supervisor.cli.outcome import run
from supervisor.config.values import parse_port, parse_text
from supervisor.port import take_port
from telemetry.mode import LIBRARY_DIR_VARIABLES, render_address

if TYPE_CHECKING:
    from types import FrameType

    from supervisor.rundir import RunDir
    from supervisor.web.watch import Watch


class _Server(uvicorn.Server):
    """Lets the open streams end when it is told to."""

    def __init__(self, config: uvicorn.Config, watch: Watch) -> None:
        super().__init__(config)
        self._watch = watch

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        asyncio.get_event_loop().call_soon_threadsafe(self._watch.end)
        super().handle_exit(sig, frame)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nexamples:\n  python -m supervisor.web\n  python -m supervisor.web --port 8001",
)
@click.option("--port", type=PORT, metavar="N", default=8000, show_default=True, help="The port.")
@click.option(
    "--host",
    metavar="ADDR",
    default="0.0.0.0",  # noqa: S104 - Prometheus comes from its container; the page is guarded
    show_default=True,
    help="The address to listen on, for /metrics.",
)
@click.option("--public", is_flag=True, help="Show the page to others too, less logs, arguments.")
@click.option(
    "--allow-host",
    "names",
    metavar="NAME",
    multiple=True,
    help="With --public: a name of this machine, besides its own.",
)
@run_dir_option
def web(port: int, host: str, public: bool, names: tuple[str, ...], run_dir: RunDir) -> int:
    """Show the stack of a run directory on a page; it can change nothing.

    The page is for this machine alone (http://127.0.0.1:8000/) unless --public is given;
    /metrics is for everybody.
    """
    # Else the library would write this process's own metrics into the sessions' directory.
    for variable in LIBRARY_DIR_VARIABLES:
        os.environ.pop(variable, None)
    from supervisor.web.app import build_app
    from supervisor.web.watch import Watch

    listener = take_port(parse_text(host, "--host"), parse_port(port, "--port"))
    watch = Watch(run_dir=run_dir, public=public)
    own = {socket.gethostname().lower(), socket.getfqdn().lower()} if public else set()
    options: dict[str, Any] = {"access_log": False, "server_header": False, "proxy_headers": False}
    config = uvicorn.Config(
        build_app(watch, names=frozenset(own | {name.lower() for name in names})),
        log_level="warning",
        limit_concurrency=512,
        timeout_graceful_shutdown=2,
        **options,
    )
    where = "0.0.0.0" if public else "127.0.0.1"  # noqa: S104 - a line for a person
    click.echo(f"watching {run_dir.path} on http://{render_address(where, port)}/")
    _Server(config, watch).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    run(web, "python -m supervisor.web")
