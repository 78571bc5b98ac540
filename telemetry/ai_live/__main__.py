"""The AI live exporter as a program: options, socket, page, and the file followed beside it.

What the file holds at the start is counted before the first page is answered, so that the counts
of a restarted exporter are never below those it had: to Prometheus nothing was reset.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from telemetry import mode
from telemetry.ai_live.events import Defaults, sanitize_name
from telemetry.ai_live.follow import Follower
from telemetry.answers import EmptyCollector
from telemetry.listen import ListenError, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from telemetry.ai_live.metrics import AiMetrics

EVENTS_VARIABLE: Final = "PEAK_TRADE_AI_EVENTS_JSONL"
RUN_ID_VARIABLE: Final = "PEAK_TRADE_AI_RUN_ID"
COMPONENT_VARIABLE: Final = "PEAK_TRADE_AI_COMPONENT"
PORT_VARIABLE: Final = "PEAK_TRADE_AI_EXPORTER_PORT"
DEFAULT_PORT: Final = 9110

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_PORT_HELD: Final = 7

# From one look for new lines to the next.
POLL_SECONDS: Final = 0.2
# A scrape waits for what the file holds at the start, but no longer than this.
CATCH_UP_SECONDS: Final = 20.0
CONNECTION_LIMIT: Final = 64

_logger = logging.getLogger("telemetry.ai_live")


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, completed from the environment."""

    events: Path
    host: str
    port: int
    from_start: bool
    defaults: Defaults


class _OptionsError(Exception):
    """What is wrong with the options, in words."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _OptionsError(message)


def parse_options(arguments: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Read the options; a flag wins over the environment. Raises _OptionsError."""
    parser = _Parser(
        prog="ai_live",
        description="Serve what the events of a JSONL file count up to, for Prometheus.",
        epilog=f"The file is named by {EVENTS_VARIABLE}; events without a run or a component get "
        f"{RUN_ID_VARIABLE} (na) and {COMPONENT_VARIABLE} (execution_watch).",
        allow_abbrev=False,
    )
    parser.add_argument("--events", metavar="FILE", help=f"the JSONL file ({EVENTS_VARIABLE})")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (all of them)")  # noqa: S104  Prometheus comes from a container
    parser.add_argument(
        "--port", help=f"TCP port, 0 for any free one ({PORT_VARIABLE}, else {DEFAULT_PORT})"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--from-start",
        action="store_true",
        help="count what is in the file already (so it is without this flag, too)",
    )
    where.add_argument(
        "--from-end", action="store_true", help="leave out what is in the file already"
    )
    parsed = parser.parse_args(arguments)
    events = parsed.events or environ.get(EVENTS_VARIABLE, "").strip()
    if not events:
        raise _OptionsError(f"no events file: {EVENTS_VARIABLE} is not set")
    port = environ.get(PORT_VARIABLE, "").strip() if parsed.port is None else parsed.port
    usual = Defaults()
    return Options(
        events=Path(events),
        host=parsed.host,
        port=_parse_port(port or str(DEFAULT_PORT)),
        from_start=not parsed.from_end,
        defaults=Defaults(
            component=sanitize_name(environ.get(COMPONENT_VARIABLE, "").strip() or usual.component),
            run_id=sanitize_name(environ.get(RUN_ID_VARIABLE, "").strip() or usual.run_id),
        ),
    )


def _parse_port(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535:
        return int(text)
    raise _OptionsError(f"{text!r} is not a port between 0 and 65535")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until TERM or INT arrives; return the exit code, every other one with its reason."""
    for number in STOP_SIGNALS:
        # A parent may have us ignore it, and an ignored signal may never become pending.
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    # The library reads these at its import, and would make shards of what is counted here.
    for name in mode.LIBRARY_DIR_VARIABLES:
        os.environ.pop(name, None)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
        force=True,
    )
    try:
        _serve(parse_options(sys.argv[1:] if arguments is None else arguments, os.environ))
    except ImportError as error:
        return _refuse(f"cannot run: {error}", "pip install ptsup", EXIT_FAILED)
    except _OptionsError as error:
        return _refuse(f"cannot start: {error}", "--help lists the options", EXIT_USAGE)
    except ListenError as error:
        return _refuse(str(error), error.hint, EXIT_PORT_HELD if error.held else EXIT_FAILED)
    return 0


def _refuse(problem: str, hint: str, exit_code: int) -> int:
    sys.stderr.write(f"ai_live: {problem}\nhint: {hint}\n")
    return exit_code


def _serve(options: Options) -> None:
    # Imported here: without waitress this fails, and must fail before anything is touched.
    from telemetry.server import Application, Server  # noqa: PLC0415

    sock = listen(options.host, options.port)
    address = mode.render_address(*sock.getsockname()[:2])
    _logger.info("ai_live started on %s events=%s", address, options.events)
    metrics = _open_metrics(options.defaults)
    facts = {"events_jsonl": str(options.events)}
    server = Server(
        Application(metrics or EmptyCollector(), facts),
        sock,
        connection_limit=CONNECTION_LIMIT,
        name="ai_live",
    )
    if metrics is not None:
        reader = Reader(Follower(options.events, from_start=options.from_start), metrics.count)
        reader.catch_up()
        threading.Thread(target=reader.run, name="follow", daemon=True).start()
    server.start()
    number = signal.sigwait(STOP_SIGNALS)
    server.stop_accepting()
    _logger.info("ai_live stopped on %s", signal.Signals(number).name)


def _open_metrics(defaults: Defaults) -> AiMetrics | None:
    """Open the families; None, and a warning, without prometheus_client."""
    try:
        from telemetry.ai_live.metrics import AiMetrics  # noqa: PLC0415  see main
    except ImportError as error:
        missing = (error.name or "").partition(".")[0] or error
        _logger.warning("cannot import %s: /metrics stays empty", missing)
        return None
    return AiMetrics(defaults)


class Reader:
    """Counts what a follower reads, and says once what keeps it from reading."""

    def __init__(self, follower: Follower, count: Callable[[bytes], None]) -> None:
        self._follower = follower
        self._count = count
        self._said = ""

    def catch_up(self) -> None:
        """Count what is there, unless that takes too long or a stop signal has come."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while self._step() and not signal.sigpending():
            if time.monotonic() > deadline:
                _logger.warning("the file is long: serving while it is still being counted")
                break

    def run(self) -> NoReturn:
        """Go on for ever; what must not happen ends the process, which counts anew."""
        try:
            while True:
                if not self._step():
                    time.sleep(POLL_SECONDS)
        except Exception as error:  # noqa: BLE001  whatever it was, the counts stand still
            _logger.critical("ai_live cannot go on: %r", error)
            os._exit(EXIT_FAILED)

    def _step(self) -> bool:
        lines, busy = self._follower.step(time.monotonic())
        for line in lines:
            self._count(line)
        problem = self._follower.problem
        if problem != self._said:
            self._said = problem
            if problem:
                _logger.warning("cannot read the events file: %s; waiting for it", problem)
            else:
                _logger.info("reading the events file")
        return busy


if __name__ == "__main__":
    sys.exit(main())
