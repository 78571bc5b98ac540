"""The metrics daemon: `python -m telemetry.metricsd` serves the shards of one directory.

Alone, it binds its port, then clears the directory once, under the guards of
`telemetry.clearing`; with `--fd` it serves an inherited socket and does neither. It never
removes a shard at its end, and TERM or INT is all it takes to end it.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # Before the imports below, which take their time: from here on a stop signal
    # waits for main's sigwait, so that it never meets a half-started daemon.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

import errno
import gc
import logging
import os
import socket
import sys
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from telemetry import handback, mode
from telemetry.answers import EmptyCollector
from telemetry.clearing import (
    clear_and_say,
    find_clear_refusal,
    prepare,
    render_lock_holder,
)
from telemetry.descriptors import raise_limit
from telemetry.listen import ListenError, listen
from telemetry.log_lines import PlainFormatter
from telemetry.options import (
    EXIT_FAILED,
    EXIT_PORT_HELD,
    EXIT_USAGE,
    MetricsdError,
    Options,
    parse_options,
)
from telemetry.plain import escape
from telemetry.shards import RETIRED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telemetry.answers import Collector


STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

# A request under way when the end comes is answered, unless that takes longer.
_DRAIN_SECONDS: Final = 1.0
_GARBAGE_THRESHOLD: Final = 100_000
# A request nudges the folder; its answer is to be on its way before the fold begins.
_FOLD_DELAY_SECONDS: Final = 0.1

_logger = logging.getLogger("telemetry.metricsd")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until TERM or INT arrives; return the exit code, every other one with its reason."""
    for number in STOP_SIGNALS:
        # A parent may have us ignore it, and an ignored signal may never become pending.
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    # The library reads these at its import, and would make shards of metricsd's own metrics.
    for name in mode.LIBRARY_DIR_VARIABLES:
        os.environ.pop(name, None)
    # numpy's import would start a thread for every core, each of which spins for a while in want
    # of work; and a scrape has none for them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        _serve(parse_options(sys.argv[1:] if arguments is None else arguments, os.environ))
    except ImportError as error:
        return _refuse(f"cannot run: {error}", "pip install ptsup", EXIT_FAILED)
    except MetricsdError as error:
        return _refuse(str(error), error.hint, error.exit_code)
    return 0


def _refuse(problem: str, hint: str, exit_code: int) -> int:
    sys.stderr.write(f"metricsd: {escape(problem)}\nhint: {escape(hint)}\n")
    return exit_code


def _serve(options: Options) -> None:
    # Imported here: without waitress this fails, and must fail before anything is touched.
    from telemetry.server import Application, Server  # noqa: PLC0415

    _configure_logging(options.log_level)
    if options.fd is None:
        _check_clearable(options.directory)
        sock = open_listener(options.host, options.port)
        kept = _clear(options.directory)
    else:
        sock = adopt_listener(options.fd)
        kept = []
        if options.handback is not None:
            handback.offer(options.handback, sock)
    address = mode.render_address(*sock.getsockname()[:2])
    _logger.info("metricsd started on %s multiproc_dir=%s", address, options.directory)
    for line in kept:
        _logger.warning("%s", line)
    shares = raise_limit()
    collector = _open_collector(options, shares.shards)
    folder = Folder(collector, options.look_seconds)
    facts = {"multiproc_dir": str(options.directory)}
    application = Application(collector, facts, folder.nudge)
    server = Server(application, sock, connection_limit=shares.connections)
    # What has been imported stays; and a shard is a handful of objects, so a thousand new ones
    # are no reason to look for garbage.
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)
    # Before anybody is let in: the first page takes longer than all others, and who waits for
    # it outside can still be answered by another metricsd.
    collector.render("")
    folder.start()
    server.start()
    number = signal.sigwait(STOP_SIGNALS)
    server.stop_accepting()
    _logger.info("metricsd stopping on %s", signal.Signals(number).name)
    server.drain(_DRAIN_SECONDS)
    _logger.info("metricsd stopped")


class Folder:
    """Folds beside the scrapes, in a thread of its own, whenever it is nudged.

    When no scrape has come for `look_seconds`, it looks at the shards for the health document.
    """

    def __init__(self, collector: Collector, look_seconds: float | None = None) -> None:
        self._collector = collector
        self._look_seconds = look_seconds
        self._nudged = threading.Event()

    def start(self) -> None:
        """Begin, with what a former run may have left."""
        self.nudge()
        threading.Thread(target=self._run, name="fold", daemon=True).start()

    def nudge(self) -> None:
        """Look soon whether there is anything to fold."""
        self._nudged.set()

    def _run(self) -> None:
        while True:
            self._nudged.wait()
            time.sleep(_FOLD_DELAY_SECONDS)
            self._nudged.clear()
            try:
                while self._collector.fold():
                    pass
                if self._look_seconds is not None:
                    self._collector.look(self._look_seconds)
            except Exception as error:
                # It will be tried again, and the claims stay readable until it succeeds; but a
                # defect of ours must not be silent.
                _logger.exception("cannot fold, or look: %r", error)  # noqa: TRY401


def _open_collector(options: Options, descriptor_limit: int) -> Collector:
    """Open the directory's collector; without prometheus_client one whose page is empty."""
    try:
        # Imported here: it brings prometheus_client, which takes longer than all the rest, and
        # which decides at its import whether its own metrics become shards.
        from telemetry.collector import open_collector  # noqa: PLC0415
        from telemetry.retired import RetiredHeldError  # noqa: PLC0415

        # The first shard imports it; who installed us without it is to hear of it now.
        if find_spec("numpy") is None:
            raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
    except ImportError as error:
        missing = (error.name or "").partition(".")[0] or error
        _logger.warning("cannot import %s: /metrics stays empty", missing)
        return EmptyCollector()
    try:
        return open_collector(
            options.directory,
            descriptor_limit=descriptor_limit,
            policy=options.policy,
            supervisor=options.supervisor_metrics,
        )
    except RetiredHeldError as error:
        raise MetricsdError(
            f"cannot fold the shards of {options.directory}:"
            f" {render_lock_holder(options.directory / RETIRED)} does",
            hint="stop that process, or choose another directory with --multiproc-dir",
            exit_code=EXIT_PORT_HELD,
        ) from error
    except OSError as error:
        raise MetricsdError(
            f"cannot read the totals of the dead: {error}",
            hint=f"see to it that {options.directory / RETIRED} can be read",
            exit_code=EXIT_FAILED,
        ) from error


def open_listener(host: str, port: int) -> socket.socket:
    """Bind and listen, port 0 meaning any free one.

    Raises MetricsdError: with exit code 7 and the holder's name when the port is in use.
    """
    try:
        return listen(host, port)
    except ListenError as error:
        exit_code = EXIT_PORT_HELD if error.held else EXIT_FAILED
        raise MetricsdError(str(error), hint=error.hint, exit_code=exit_code) from error


def adopt_listener(fd: int) -> socket.socket:
    """Take over an inherited descriptor, which must be a listening TCP socket.

    Raises MetricsdError, with exit code 2, when it is anything else.
    """
    problem = f"cannot serve descriptor {fd}"
    hint = "--fd wants a listening TCP socket that the parent process passed on"
    try:
        sock = socket.socket(fileno=fd)
        listening = _is_listening(sock)
    except OSError as error:
        raise MetricsdError(
            f"{problem}: {error.strerror}", hint=hint, exit_code=EXIT_USAGE
        ) from error
    if not listening:
        raise MetricsdError(
            f"{problem}: it is not a listening TCP socket", hint=hint, exit_code=EXIT_USAGE
        )
    return sock


def _configure_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        PlainFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
    )
    logging.basicConfig(level=level, handlers=[handler])


def _check_clearable(directory: Path) -> None:
    refusal = find_clear_refusal(directory)
    if refusal is not None:
        raise MetricsdError(
            f"cannot clear {directory}: {refusal}",
            hint="metricsd clears its directory as it starts; give it one of its own"
            " with --multiproc-dir",
            exit_code=EXIT_USAGE,
        )


def _clear(directory: Path) -> list[str]:
    """Create, lock and clear the shard directory; say which shards stayed, being held.

    The lock stays as long as this process.
    """
    kept: list[str] = []
    try:
        if prepare(directory) is None:
            raise MetricsdError(
                f"cannot clear {directory}: it is in use by {render_lock_holder(directory)}",
                hint="stop that process, or choose another directory with --multiproc-dir",
                exit_code=EXIT_PORT_HELD,
            )
        clear_and_say(directory, kept.append)
    except OSError as error:
        raise MetricsdError(
            f"cannot clear {directory}: {error.strerror}: {error.filename}",
            hint="the user who runs metricsd must be able to write there",
            exit_code=EXIT_FAILED,
        ) from error
    return kept


def _is_listening(sock: socket.socket) -> bool:
    if sock.family not in {socket.AF_INET, socket.AF_INET6} or sock.type != socket.SOCK_STREAM:
        return False
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        # macOS does not tell; a bound socket is all that can be asked for.
        return bool(sock.getsockname()[1])


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    # Not sys.exit: the interpreter's long goodbye can stumble over worker threads that still run.
    os._exit(exit_code)
