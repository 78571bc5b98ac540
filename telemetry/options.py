"""The command line of metricsd, completed from the environment, and what it says of bad input."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from telemetry import mode
from telemetry.policy import LabelPolicy, build_policy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_PORT_HELD: Final = 7

_LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class MetricsdError(Exception):
    """What metricsd cannot do, why, what to do about it, and the exit code that says so."""

    def __init__(self, problem: str, *, hint: str, exit_code: int) -> None:
        super().__init__(problem)
        self.hint = hint
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, completed from the environment; `directory` is absolute.

    With `fd`, an inherited listening socket, host and port are the socket's own affair.
    """

    host: str
    port: int
    directory: Path
    log_level: str
    fd: int | None
    policy: LabelPolicy
    supervisor_metrics: Path | None
    handback: Path | None
    look_seconds: float | None


def parse_options(arguments: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Read the options; a flag wins over the environment, which wins over the default.

    Raises MetricsdError for anything that is no valid option.
    """
    parser = _build_parser()
    parsed = parser.parse_args(arguments)
    try:
        port = parsed.port
        if port is None:
            port = 0 if parsed.fd is not None else mode.parse_port(environ)
        directory = parsed.multiproc_dir or mode.parse_multiproc_dir(environ)
        # Resolved here and now, once: nothing may depend on a working directory later.
        return Options(
            parsed.host,
            port,
            directory.absolute(),
            parsed.log_level,
            parsed.fd,
            build_policy(parsed.allow_label),
            parsed.supervisor_metrics,
            parsed.handback,
            parsed.look_seconds,
        )
    except ValueError as error:
        parser.error(str(error))
    except FileNotFoundError:
        parser.error("the working directory is gone, so --multiproc-dir must be absolute")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise MetricsdError(
            f"cannot start: {message}", hint="--help lists the options", exit_code=EXIT_USAGE
        )


def _build_parser() -> _Parser:
    parser = _Parser(
        prog="metricsd",
        description="Serve the Prometheus multiprocess shards of one directory over HTTP.",
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (all of them)")  # noqa: S104  Prometheus comes from a container
    parser.add_argument(
        "--port",
        type=_parse_port,
        help=f"TCP port, 0 for any free one ({' or '.join(mode.PORT_VARIABLES)},"
        f" else {mode.DEFAULT_PORT})",
    )
    parser.add_argument(
        "--multiproc-dir",
        type=_parse_directory,
        metavar="DIR",
        help=f"shard directory ({mode.MULTIPROC_DIR_VARIABLE}, else {mode.DEFAULT_MULTIPROC_DIR})",
    )
    parser.add_argument(
        "--log-level", type=str.upper, choices=_LOG_LEVELS, default="INFO", help="(INFO)"
    )
    parser.add_argument(
        "--fd",
        type=_parse_number,
        metavar="N",
        help="serve this inherited listening socket; neither bind nor clear",
    )
    parser.add_argument(
        "--allow-label",
        action="append",
        default=[],
        metavar="NAME",
        help="let series with this label onto the page, too; may be repeated",
    )
    parser.add_argument(
        "--supervisor-metrics",
        type=_parse_directory,
        metavar="FILE",
        help="show what a living supervisor writes into this file",
    )
    parser.add_argument(
        "--look-seconds",
        type=_parse_number,
        metavar="N",
        help="have /healthz speak of shards as they were N seconds ago at most",
    )
    parser.add_argument(
        "--handback",
        type=_parse_directory,
        metavar="PATH",
        help="give the inherited socket back to this user's next supervisor, on a unix socket here",
    )
    return parser


def _parse_port(text: str) -> int:
    port = _parse_number(text)
    if port > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port between 0 and 65535")
    return port


def _parse_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _parse_directory(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return Path(text)
