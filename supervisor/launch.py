"""From a Config to a supervisor at work. Every refusal happens here, before any start.

The order is the promise: run directory, lock, leftovers, port; only then is the shard
directory cleared and anything spawned.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.control import parse_response, render_error, render_result
from supervisor.errors import PtsupError, SupervisorDeadError, UsageError
from supervisor.events import KillAll, StopAll
from supervisor.fleet import Phase
from supervisor.logs import open_log
from supervisor.loop import Loop
from supervisor.orphans import find_living
from supervisor.port import take_port
from supervisor.rundir import SUPERVISOR
from supervisor.serve import Server
from telemetry.claim import mark_dead
from telemetry.clearing import clear_unheld, find_clear_refusal, render_kept

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from supervisor.admission import Admitted
    from supervisor.config import Config
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything a supervisor needs, checked, and nothing of it started."""

    config: Config
    run_dir: RunDir
    listener: socket.socket
    sessions: Sequence[Admitted]
    exit_when_done: bool


def take_over(config: Config, run_dir: RunDir) -> socket.socket:
    """Take over the locked run directory and the port; clear what a former run left.

    Raises PtsupError, and then has changed nothing.
    """
    refusal = find_clear_refusal(config.multiproc_dir)
    if refusal is not None:
        raise UsageError(
            f"cannot use {config.multiproc_dir} for shards: {refusal}",
            "choose a directory named prom_multiproc with --multiproc-dir",
        )
    crashed = run_dir.read_states()
    _refuse_orphans(crashed)
    listener = take_port(config.host, config.port)
    try:
        config.multiproc_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if crashed:
            _bury(crashed, config)
        else:
            for line in render_kept(clear_unheld(config.multiproc_dir)):
                log.warning(line)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot use {config.multiproc_dir} for shards: {error.strerror}",
            "choose another with --multiproc-dir",
        ) from None
    run_dir.clean()
    run_dir.create()
    return listener


def _refuse_orphans(states: dict[str, dict[str, Any]]) -> None:
    living = find_living(states)
    if living:
        names = ", ".join(f"{name} (pid {pid})" for name, pid in living.items())
        raise SupervisorDeadError(
            f"cannot start: the last supervisor died and left running: {names}",
            "`ptsup stop` ends them; then start again",
        )


def _bury(states: dict[str, dict[str, Any]], config: Config) -> None:
    """Mark dead whom a crashed supervisor no longer could. Totals of a crash are not cleared."""
    for state in states.values():
        if isinstance(pid := state.get("pid"), int):
            mark_dead(config.multiproc_dir, pid)


# -- Running ------------------------------------------------------------------------------------


def run(launch: Launch, on_opened: Callable[[Loop], None]) -> int:
    """Be the supervisor until nothing runs any more; give back the exit code."""
    return asyncio.run(_run(launch, on_opened))


async def _run(launch: Launch, on_opened: Callable[[Loop], None]) -> int:
    loop = Loop(
        config=launch.config,
        run_dir=launch.run_dir,
        listener=launch.listener,
        exit_when_done=launch.exit_when_done,
    )
    server = Server(loop)
    _handle_signals(loop)
    await server.open()
    loop.add(launch.sessions)
    loop.background(_report_opened(loop, on_opened))
    try:
        await loop.run()
    finally:
        await server.close()
    return 1 if launch.exit_when_done and loop.fleet.failed else 0


def _handle_signals(loop: Loop) -> None:
    def stop() -> None:
        # The first one stops in order, the next one at once.
        again = loop.fleet.phase not in {Phase.OPENING, Phase.SERVING}
        loop.post(KillAll() if again else StopAll())

    handler = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        handler.add_signal_handler(number, stop)


async def _report_opened(loop: Loop, on_opened: Callable[[Loop], None]) -> None:
    await loop.wait_until(lambda: loop.opened)
    on_opened(loop)


def build_report(loop: Loop) -> dict[str, Any]:
    """Build what `start` says once everything is up."""
    return {
        "pid": os.getpid(),
        "host": loop.prober.host,
        "port": loop.config.port,
        "metricsd_pid": loop.fleet.metricsd.pid,
        "sessions": [
            {"name": p.name, "state": str(p.state), "pid": p.pid, "reason": p.reason}
            for p in loop.fleet.sessions.values()
        ],
    }


# -- Detached -------------------------------------------------------------------------------------


def run_detached(launch: Launch) -> dict[str, Any]:
    """Fork a supervisor with its own session and stdio; give back its report.

    Returns once everything is up; raises the PtsupError the supervisor ended with instead.
    Ctrl-C while waiting stops it again.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_detached(launch, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        try:
            line = answer.readline()
        except KeyboardInterrupt:
            os.kill(pid, signal.SIGTERM)
            answer.read()  # it closes its end when it is gone
            raise
    if not line:
        path = launch.run_dir.log(SUPERVISOR)
        raise PtsupError("cannot start: the supervisor ended at its start", f"see {path}")
    return parse_response(line)


def _be_detached(launch: Launch, writing: int) -> None:
    """Run as the detached supervisor; never returns."""
    code = 1
    with contextlib.suppress(BaseException):
        os.setsid()
        _detach_stdio(launch.run_dir)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        with os.fdopen(writing, "wb", buffering=0) as answer:
            code = _run_and_answer(launch, answer)
    os._exit(code)


def _run_and_answer(launch: Launch, answer: Any) -> int:
    def report(loop: Loop) -> None:
        with contextlib.suppress(OSError):  # nobody waits for it any more
            answer.write(render_result(build_report(loop)))
            answer.close()

    try:
        return run(launch, report)
    except PtsupError as error:
        log.exception("%s", error.message)
        if not answer.closed:
            answer.write(render_error(error))
        return error.exit_code
    except BaseException:
        log.exception("the supervisor failed")
        raise


def _detach_stdio(run_dir: RunDir) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    with Path(os.devnull).open("rb") as nothing, open_log(run_dir.log(SUPERVISOR)) as output:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
