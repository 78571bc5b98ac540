"""What is done for a client of the control socket: a request becomes events, and an answer.

A verb may be repeated without harm. Its answer waits for the outcome, not for the intention.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import supervisor
from supervisor import kernel
from supervisor.admission import admit, check_complete
from supervisor.config.documents import parse_session_document
from supervisor.config.order import check_order
from supervisor.config.values import (
    check_ports,
    check_unique,
    parse_denied,
    parse_env,
    parse_seconds,
)
from supervisor.drift import build_drift
from supervisor.environ import build_starter
from supervisor.errors import PtsupError, UsageError
from supervisor.events import Restart, Stop, StopAll
from supervisor.fleet import Phase, is_opened, is_settled
from supervisor.logs import read_tail
from supervisor.observe import count_shards, sample_usage
from supervisor.process import ENDED, Process, State
from supervisor.reload import check_living, reload
from supervisor.status import Facts, build_status
from supervisor.words import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from pathlib import Path

    from supervisor.control import Request
    from supervisor.loop import Loop

# Of a session that gave up: what it said last.
LAST_LINES: Final = 5
_LINE_CHARACTERS: Final = 500


@dataclass(slots=True)
class Verbs:
    """The verbs of one supervisor."""

    loop: Loop
    _started_at: float = field(default_factory=time.monotonic)
    _cpu: dict[int, tuple[float, float]] = field(default_factory=dict)

    async def answer(self, request: Request) -> dict[str, Any]:
        """Do what is asked, and answer when its outcome is known; raises PtsupError."""
        verbs: dict[str, Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]] = {
            "status": self._status,
            "start": self._start,
            "stop": self._stop,
            "restart": self._restart,
            "reload": self._reload,
            "wait": self._wait,
            "drift": self._drift,
        }
        if request.verb not in verbs:
            raise PtsupError(f"no such verb: {ascii(request.verb)[:60]}")
        return await verbs[request.verb](request.parameters)

    async def _status(self, _parameters: dict[str, Any]) -> dict[str, Any]:
        """Build the status document; what has to be looked for is looked for in a thread."""
        loop = self.loop
        pids = [process.pid for process in loop.fleet.processes if process.pid is not None]
        shards = await asyncio.to_thread(count_shards, loop.config.multiproc_dir)
        samples = await asyncio.to_thread(sample_usage, pids)
        listens = await asyncio.to_thread(self._find_listens)
        last_lines: dict[str, list[str]] = {}
        while unread := self._find_unread(last_lines):  # somebody may give up during the reading
            last_lines |= await asyncio.to_thread(read_last_lines, unread)
        now = time.monotonic()
        started = {p.pid: p.started_at for p in loop.fleet.processes if p.started_at is not None}
        usage = {
            pid: (
                self._find_cpu_percent(pid, sample.cpu_seconds, started.get(pid, now), now),
                sample.rss_bytes,
            )
            for pid, sample in samples.items()
        }
        self._cpu = {pid: (sample.cpu_seconds, now) for pid, sample in samples.items()}
        facts = Facts(
            pid=os.getpid(),
            version=supervisor.__version__,
            run_dir=str(loop.run_dir.path),
            started_at=self._started_at,
            host=loop.config.host,
            port=loop.config.port,
            shards=replace(shards, unreadable=loop.prober.unreadable_shards),
            last_scrape_age_seconds=loop.prober.last_scrape_age_seconds,
            usage=usage,
            last_lines=last_lines,
            log_starts={name: each.log_start for name, each in loop.children.origins.items()},
            listens=listens,
            findings=loop.list_findings(),
        )
        specs = {name: member.spec for name, member in loop.members.items()}
        return build_status(loop.fleet, specs, facts, lambda name: str(loop.run_dir.log(name)), now)

    async def _drift(self, _parameters: dict[str, Any]) -> dict[str, Any]:
        """Look at everything, and say what is not as it should be."""
        await self.loop.audit.look()
        return {"drift": build_drift(self.loop.list_findings(), time.monotonic())}

    def _find_unread(self, last_lines: Mapping[str, object]) -> dict[str, Path]:
        """The logs of those who gave up, by name, of whom no last words are known yet."""
        return {
            process.name: self.loop.run_dir.log(process.name)
            for process in self.loop.fleet.processes
            if process.state is State.FATAL and process.name not in last_lines
        }

    def _find_listens(self) -> dict[str, list[str]]:
        """Find at which addresses the ports of the exporters that run are listened on."""
        ports = {
            name: member.spec.port
            for name, process in self.loop.fleet.exporters.items()
            if process.state is State.RUNNING
            and (member := self.loop.members.get(name)) is not None  # forgotten meanwhile
        }
        if not ports:
            return {}
        try:
            sockets = set(kernel.list_listening().values())
        except OSError:
            return {}
        return {
            name: sorted(host for host, listened in sockets if listened == port)
            for name, port in ports.items()
        }

    def _find_cpu_percent(
        self, pid: int, cpu_seconds: float, started_at: float, now: float
    ) -> float:
        """Percent of a core since the last time anybody asked, the first time since its start."""
        before_seconds, before = self._cpu.get(pid, (0.0, started_at))
        return 100 * (cpu_seconds - before_seconds) / (now - before) if now > before else 0.0

    async def _start(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Take over new sessions with their caller's environment: gates first, all or none."""
        loop = self.loop
        documents = parameters.get("sessions")
        if not isinstance(documents, list):
            raise UsageError("a start needs a list of sessions")
        specs = [parse_session_document(document) for document in documents]
        starter = build_starter(parse_env(parameters.get("environ", {}), "the environment"))
        self._check_open("start")
        members = {process.name: process for process in loop.fleet.members}
        ended = {p.name for p in members.values() if p.state in ENDED and is_opened(loop.fleet, p)}
        for spec in specs:
            if spec.name in members and spec.name not in ended:
                raise UsageError(
                    f"cannot start {spec.name}: a session of that name is running",
                    "choose another name, or stop that one first",
                )
        living = [loop.members[name].spec for name in members.keys() - ended]
        check_unique([*living, *specs])
        check_ports(specs, living, loop.config.port)
        check_order(
            {spec.name: spec.start_after for spec in specs},
            known={*members, *(spec.name for spec in specs)},
            where=lambda name: f"session {name}",
        )
        denied = parse_denied(parameters.get("denied", []), "denied")
        config = loop.config.deny(denied)
        check_living(loop, living, config, "start")
        admitted = [admit(spec, starter, config.multiproc_dir, config.denied) for spec in specs]
        if config.denied != loop.config.denied:
            loop.reconfigure(config)
        loop.add(admitted)
        names = [spec.name for spec in specs]
        done = is_settled if parameters.get("ready") is True else is_opened
        await loop.wait_until(
            lambda: all(done(loop.fleet, process) for process in self._find(names))
        )
        return {"sessions": self._describe(names)}

    def _describe(self, names: Iterable[str]) -> list[dict[str, Any]]:
        return [describe(self.loop.fleet, process) for process in self._find(names)]

    def stop_all(self, parameters: dict[str, Any]) -> None:
        """Begin to stop everything: who asked is answered at the end of the supervisor."""
        timeout_seconds, drain = _read_timeout(parameters), parameters.get("drain_seconds")
        if drain is not None:
            self.loop.prober.drain_seconds = parse_seconds(drain, "--drain")
        if parameters.get("keep_shards") is True:
            self.loop.keep_shards = True
        self.loop.take(StopAll(timeout_seconds))

    async def _stop(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Stop these sessions; answered after their reap."""
        timeout_seconds = _read_timeout(parameters)
        for name in self._read_names(parameters):
            self.loop.take(Stop(name, timeout_seconds))
        return await self._wait(parameters)

    async def _restart(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Restart these sessions; answered when each runs anew, or cannot."""
        await self._wait_open("restart")
        names = self._read_names(parameters)
        former = {process.name: process.incarnation for process in self._find(names)}
        for name in names:
            check_complete(self.loop.members[name])  # before it is stopped for nothing
        for name in names:
            self.loop.take(Restart(name))
        await self.loop.wait_until(
            lambda: all(
                # Stopped meanwhile by somebody else, it will not come up again.
                p.state in ENDED
                or (p.incarnation > former[p.name] and p.state is not State.STARTING)
                for p in self._find(names)
            )
        )
        return {"sessions": self._describe(names)}

    async def _reload(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Read the file anew, and apply what has changed unless told only to look."""
        await self._wait_open("reload")
        return await reload(self.loop, apply=parameters.get("apply", True) is True)

    def _check_open(self, verb: str) -> None:
        if self.loop.fleet.phase not in {Phase.OPENING, Phase.SERVING}:
            raise PtsupError(
                f"cannot {verb}: the supervisor is stopping", "wait for it, then start"
            )

    async def _wait_open(self, verb: str) -> None:
        """Wait until metricsd has answered: before that nobody is started, so nobody comes up."""
        await self.loop.wait_until(lambda: self.loop.fleet.phase is not Phase.OPENING)
        self._check_open(verb)

    async def _wait(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Wait until these sessions have ended, however they do."""
        names = self._read_names(parameters)
        await self.loop.wait_until(lambda: all(p.state in ENDED for p in self._find(names)))
        return {"sessions": self._describe(names)}

    def _find(self, names: Iterable[str]) -> list[Process]:
        found = (self.loop.fleet.find(name) for name in names)
        return [process for process in found if process is not None]

    def _read_names(self, parameters: dict[str, Any]) -> list[str]:
        names = parameters.get("names")
        known = [process.name for process in self.loop.fleet.members]
        if not isinstance(names, list) or not names:
            raise UsageError("no session was named")
        for name in names:
            if not isinstance(name, str) or name not in known:
                raise UsageError(
                    f"no such session: {ascii(name)[:60]}",
                    f"there are: {', '.join(known)}" if known else "there is none",
                )
        return list(dict.fromkeys(names))  # a line may hold one a million times


def read_last_lines(logs: Mapping[str, Path]) -> dict[str, list[str]]:
    """Read the last words of those who gave up, by name; who cannot be read said nothing."""
    return {name: _read_words(path) for name, path in logs.items()}


def _read_words(path: Path) -> list[str]:
    try:
        lines = read_tail(path, LAST_LINES)
    except OSError:
        return []
    return [line[:_LINE_CHARACTERS] for line in lines]


def _read_timeout(parameters: dict[str, Any]) -> float | None:
    seconds = parameters.get("timeout_seconds")
    return None if seconds is None else parse_seconds(seconds, "--timeout")
