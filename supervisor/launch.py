"""From a Config to a supervisor at work. Every refusal happens here, before any start.

The order is the promise: run directory, lock, leftovers, port; only then is the shard
directory cleared and anything spawned.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from supervisor.audit import Inherited
from supervisor.claims import bury
from supervisor.config import SUPERVISOR
from supervisor.control import parse_response, render_error, render_result
from supervisor.descriptors import make_room
from supervisor.errors import PortHeldError, PtsupError, UsageError
from supervisor.events import KillAll, StopAll
from supervisor.fleet import Phase
from supervisor.notify import feed_watchdog, notify
from supervisor.pulse import PulseLoop
from supervisor.serve import Server
from supervisor.spawn import keep_descriptors
from supervisor.takeover import find_left, settle_config, take_listener
from supervisor.words import describe
from telemetry.clearing import clear_and_say, find_clear_refusal, prepare, render_lock_holder
from telemetry.log_lines import PlainFormatter

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from supervisor.admission import Admitted
    from supervisor.adoption import Former
    from supervisor.config import Config
    from supervisor.drift.facts import Orphan
    from supervisor.loop import Loop
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")

# A start that takes longer than this says for whom it waits.
WAIT_IN_SILENCE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Taken:
    """What a supervisor needs for itself alone, and has; and whom it adopts."""

    config: Config
    listener: socket.socket
    shards_lock: int
    former: tuple[Former, ...]
    inherited: Inherited
    descriptors: int | None = None  # what a session may have open, where we may more


def take_over(config: Config, run_dir: RunDir) -> Taken:
    """Take the port and the shard directory; clear what a former run left, unless it crashed.

    The run directory is locked already. Raises PtsupError, and then has changed nothing but
    that a metricsd that hung is dead.
    """
    left = find_left(run_dir, config.denied)
    config = settle_config(config, left)
    directory = config.multiproc_dir
    refusal = find_clear_refusal(directory)
    if refusal is not None:
        raise UsageError(
            f"cannot use {directory} for shards: {refusal}",
            "choose a directory of your own named prom_multiproc with --multiproc-dir",
        )
    descriptors = make_room(len(left.living))
    listener, left, lost = take_listener(config, run_dir, left)
    orphans: tuple[Orphan, ...] = ()
    try:
        lock = _take_shards(directory)
        if left.crashed:
            orphans = bury(directory)
        else:
            clear_and_say(directory, log.warning)
            run_dir.clean()
        run_dir.create()
    except PtsupError:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot use {directory} for shards: {error.strerror}",
            "choose another with --multiproc-dir",
        ) from None
    inherited = Inherited(lost_listeners=tuple(lost), orphans=orphans)
    return Taken(config, listener, lock, left.former, inherited, descriptors)


def _take_shards(directory: Path) -> int:
    lock = prepare(directory)
    if lock is None:
        raise PortHeldError(
            f"cannot use {directory} for shards: in use by {render_lock_holder(directory)}",
            "give each stack a directory of its own with --multiproc-dir",
        )
    return lock


# -- Running ------------------------------------------------------------------------------------


def run(
    loop: Loop, sessions: Sequence[Admitted], tell: Callable[[dict[str, Any]], None] | None = None
) -> int:
    """Be the supervisor until nothing runs any more; give back the exit code."""
    keep_descriptors()
    with asyncio.Runner(loop_factory=PulseLoop) as runner:
        return runner.run(_run(loop, sessions, tell))


async def _run(
    loop: Loop, sessions: Sequence[Admitted], tell: Callable[[dict[str, Any]], None] | None
) -> int:
    server = Server(loop)
    _handle_signals(loop)
    await server.open()
    loop.begin()
    loop.add(sessions)
    loop.background(_tell_opened(loop))
    if tell is not None:
        loop.background(_tell_settled(loop, tell))
    loop.background(feed_watchdog())
    gc.freeze()  # what there is by now stays: nobody has to look through it for garbage again
    try:
        await loop.run()
    finally:
        notify("STOPPING=1")
        await server.close()
    return 1 if loop.exit_when_done and loop.fleet.failed else 0


def _handle_signals(loop: Loop) -> None:
    def stop() -> None:
        # The first one stops in order, the next one at once.
        again = loop.fleet.phase not in {Phase.OPENING, Phase.SERVING}
        loop.post(KillAll() if again else StopAll())

    handler = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue  # nohup wants to outlive its terminal
        handler.add_signal_handler(number, stop)
    # A mask would be inherited by every session, and leave it deaf.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


async def _tell_opened(loop: Loop) -> None:
    """Tell systemd, whose patience is short: it does not wait for who is slow to be ready."""
    await loop.wait_until(lambda: loop.opened)
    notify("READY=1")


async def _tell_settled(loop: Loop, tell: Callable[[dict[str, Any]], None]) -> None:
    """Tell a start what became of everybody; before that, for whom it has to wait."""
    await loop.wait_until(lambda: loop.opened)
    try:
        async with asyncio.timeout(WAIT_IN_SILENCE_SECONDS):
            await loop.wait_until(lambda: loop.settled)
    except TimeoutError:
        if waiting := loop.find_unsettled():  # the last of them may just have come to be
            tell({"waiting": waiting})
        await loop.wait_until(lambda: loop.settled)
    tell(build_report(loop))


def build_report(loop: Loop) -> dict[str, Any]:
    """Build what `start` says once everything is up."""
    return {
        "url": loop.prober.url,
        "metricsd_pid": loop.fleet.metricsd.pid,
        "sessions": [describe(loop.fleet, process) for process in loop.fleet.members],
    }


# -- Detached -------------------------------------------------------------------------------------


def run_detached(
    loop: Loop, sessions: Sequence[Admitted], on_waiting: Callable[[list[str]], None]
) -> dict[str, Any]:
    """Fork a supervisor with its own session and stdio; give back its report.

    Returns once everything is up and ready, and tells who is waited for should that take long;
    raises the PtsupError the supervisor ended with instead. Ctrl-C (or TERM) while waiting
    stops it again.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_detached(loop, sessions, writing)
    os.close(writing)
    loop.listener.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with os.fdopen(reading, "rb") as answer:
        try:
            for line in answer:
                told = parse_response(line)
                if "waiting" not in told:
                    return told
                on_waiting(told["waiting"])
        except KeyboardInterrupt:
            os.kill(pid, signal.SIGTERM)
            answer.read()  # it closes its end when it is gone
            raise
    path = loop.run_dir.log(SUPERVISOR)
    raise PtsupError("cannot start: the supervisor ended at its start", f"see {path}")


def _be_detached(loop: Loop, sessions: Sequence[Admitted], writing: int) -> None:
    """Run as the detached supervisor; never returns."""
    code = 1
    with contextlib.suppress(BaseException):
        os.setsid()
        _detach_stdio(loop.run_dir)
        handler = logging.StreamHandler()
        handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        with os.fdopen(writing, "wb", buffering=0) as answer:
            code = _run_and_answer(loop, sessions, answer)
    os._exit(code)


def _run_and_answer(loop: Loop, sessions: Sequence[Admitted], answer: BinaryIO) -> int:
    def tell(result: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody waits for it any more
            answer.write(render_result(result))
            if "waiting" not in result:
                answer.close()

    try:
        return run(loop, sessions, tell)
    except PtsupError as error:
        log.error("%s", error.message)  # noqa: TRY400 - what went on in us is told already
        if not answer.closed:
            answer.write(render_error(error))
        return error.exit_code
    except BaseException:
        log.exception("the supervisor failed")
        raise


def _detach_stdio(run_dir: RunDir) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    nothing, output = os.open(os.devnull, os.O_RDONLY), run_dir.open_log(SUPERVISOR)
    for descriptor, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, number)
    os.close(nothing)
    os.close(output)
