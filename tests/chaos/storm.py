"""The storm: sessions come and go, metricsd is struck again and again, and everybody watches.

`Storm.run` does it all on a stack and gives a report; whatever is not as promised is a line of
its `failures`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from chaos.crowd import LEADER, Crowd
from chaos.events import EventLog, find_excuse
from chaos.ledgers import Ledgers
from chaos.plan import (
    End,
    Scale,
    Session,
    plan_always,
    plan_blows,
    plan_incarnation,
    plan_session,
)
from chaos.prometheus import Prometheus
from chaos.scrapes import Auditor, Floor, Scraper, read_page, render_series
from chaos.strikes import Target
from waiting import wait_for

if TYPE_CHECKING:
    from chaos.events import Request
    from stack import Series, Stack

PROGRAM = Path(__file__).parent / "session.py"
# How many times its planned duration a storm may take to reach its figures.
PATIENCE = 2.5
WARM_UP_SECONDS = 8.0
# Who dies unseen is found by the audit, every 15 seconds.
CLAIMED_WITHIN_SECONDS = 20.0
SHARD = re.compile(r"_(\d+)\.db")


@dataclass(slots=True)
class Report:
    """What a storm was like, and what was not as promised."""

    facts: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def hold(self, promise: str, broken: list[str], figure: str = "") -> None:
        """Note a promise as kept, or why it is not."""
        self.facts.append(f"{'FAIL' if broken else 'ok  '} {promise}: {figure or len(broken)}")
        self.failures += [f"{promise}: {line}" for line in broken[:8]]
        if len(broken) > 8:
            self.failures.append(f"{promise}: and {len(broken) - 8} more")


class Storm:
    """One run of chaos on a stack."""

    def __init__(self, stack: Stack, seed: int, scale: Scale, *, prometheus: bool) -> None:
        self.stack = stack
        self.seed = seed
        self.scale = scale
        self.report = Report()
        self.directory = stack.cwd / "chaos"
        (self.directory / "ledgers").mkdir(parents=True)
        self.log = EventLog(self.directory / "events.log")
        self.ledgers = Ledgers(self.directory / "ledgers")
        self.floor = Floor()
        self.target = Target(stack, self.log)
        self._wants_prometheus = prometheus
        self._prometheus: Prometheus | None = None
        self._over = threading.Event()
        self._troubles: list[str] = []  # of the storm itself
        self._crowding: list[int] = []  # how many sessions lived, every tenth of a second
        self._lives: dict[tuple[str, str], float | None] = {}
        self._crowd = Crowd(
            self.directory, self.log, self._find_life_seconds, enough=scale.wanted + 1
        )
        self._scrapers: list[Scraper] = []
        self._auditor = Auditor("auditor", stack.port, self.ledgers, self.floor, self.log)
        self._blows = plan_blows(seed, scale.kills, scale.stops, scale.seconds)

    def run(self) -> Report:
        """Raise the storm, wait until it is over, and hold what is left against the promises."""
        try:
            self._raise_and_wait()
            self._settle()
        except Exception as error:  # noqa: BLE001 - with all that was found until then
            self.log.note("broken off", None, "", repr(error))
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.report.failures.append(f"the run broke off: {error!r} ({where})")
        finally:
            self._crowd.close()
            if self._prometheus:
                self._prometheus.close()
            if self.report.failures:
                self._keep_evidence()
            self.log.close()
        return self.report

    # -- The storm ----------------------------------------------------------------------------

    def _raise_and_wait(self) -> None:
        self.stack.start()
        if self._wants_prometheus:
            self._prometheus = Prometheus(self.stack)
        self._scrapers = [
            Scraper(
                f"scraper-{number}",
                self.stack.port,
                keep=bool(number % 2),
                floor=self.floor,
                log=self.log,
                pause=0.8,
            )
            for number in range(self.scale.scrapers)
        ]
        self._start(*(plan_always(self.seed, number) for number in range(self.scale.always)))
        for scraper in (*self._scrapers, self._auditor):
            scraper.start()
        threads = [
            threading.Thread(target=self._guard, args=(work,), daemon=True)
            for work in (self._send_sessions, self._strike)
        ]
        for thread in threads:
            thread.start()
        began = self.log.note("begin", None, f"seed {self.seed}", str(self.scale))
        deadline = began + PATIENCE * self.scale.seconds + 30
        while not self._is_done(began):
            if time.monotonic() > deadline:
                self._troubles.append(
                    f"not done after {PATIENCE:g} times its duration: {self._blows_done()} blows,"
                    f" {self._crowd.deaths[LEADER]} deaths of sessions"
                )
                break
            if time.monotonic() > began + WARM_UP_SECONDS:
                self._crowding.append(self._crowd.leaders)
            time.sleep(0.1)
        self.log.note("calm", None, "no more blows")
        self._over.set()
        for thread in threads:
            thread.join(90)

    def _is_done(self, began: float) -> bool:
        if self._crowd.failure is not None:
            raise self._crowd.failure
        return (
            time.monotonic() > began + self.scale.seconds
            and self._blows_done() >= len(self._blows)
            and self._crowd.deaths[LEADER] >= self.scale.deaths
        )

    def _guard(self, work: object) -> None:
        """Run a part of the storm; what goes wrong in it is told, and the storm goes on."""
        assert callable(work)
        try:
            work()
        except Exception as error:  # noqa: BLE001 - told in the report
            self._trouble(f"{getattr(work, '__name__', work)}: {error!r}")

    def _trouble(self, what: str) -> None:
        self.log.note("trouble", None, "", what)
        self._troubles.append(what)

    def _blows_done(self) -> int:
        return len(self.target.deaths) + sum("not replaced" in what for what in self._troubles)

    def _strike(self) -> None:
        for blow in self._blows:
            if self._over.wait(blow.pause_seconds):
                return
            try:
                self.target.strike(blow)
            except AssertionError as error:
                self._trouble(str(error))

    def _send_sessions(self) -> None:
        """Hand sessions over, several at a time, whenever too few live."""
        index = 0
        while not self._over.wait(0.2):
            unborn = sum(not self._crowd.born[f"s{number:03}"] for number in range(index))
            missing = self.scale.sessions - self._crowd.leaders - unborn
            # Several at a time, and some more than are missing: some die before the next.
            if missing >= 2:
                more = range(index, index + missing + 2)
                sessions = [plan_session(self.seed, number, self.scale.pace) for number in more]
                index += len(sessions)
                self._start(*sessions)

    def _start(self, *sessions: Session) -> None:
        arguments = ["--restart", "always" if sessions[0].name[0] == "a" else "no"]
        for session in sessions:
            killed = session.end is End.KILL
            self._lives[session.name, LEADER] = session.lives_seconds if killed else None
            for worker in session.workers:
                killed = worker.end is End.KILL
                self._lives[session.name, worker.role] = worker.lives_seconds if killed else None
            words = [sys.executable, str(PROGRAM), str(self.directory), json.dumps(asdict(session))]
            arguments += ["-s", f"{session.name}={shlex.join(words)}"]
            self.log.note("start", None, session.name, f"{session.end} {session.lives_seconds:.3f}")
        done = self.stack.run("start", "-d", *arguments, code=None)
        if done.returncode:
            self._trouble(f"start ended with {done.returncode}: {done.stderr.strip()}")

    def _find_life_seconds(self, name: str, role: str, incarnation: int) -> float | None:
        if name.startswith("a"):
            return plan_incarnation(self.seed, name, incarnation)
        return self._lives[name, role]

    # -- After it -----------------------------------------------------------------------------

    def _settle(self) -> None:
        with contextlib.suppress(AssertionError):  # who never comes is told of in the end
            # The last to be started may not have begun yet, and would die of the stop unseen.
            wait_for(lambda: not self._find_unborn(), timeout_seconds=20)
        document = self.stack.status()
        self._hold_flat("while sessions live, the flat directory holds shards of the living only")
        alive = [one["name"] for one in document["sessions"] if one["target"] == "up"]
        if alive:
            self.stack.run("stop", *alive)
        wait_for(lambda: not self._crowd.living, timeout_seconds=20, what="the last worker to end")
        for scraper in (*self._scrapers, self._auditor):
            scraper.finish()
        self._hold_equal("once all have ended, every counter equals the ledgers")
        self._hold_flat("once all have ended, the flat directory holds no shard")
        self._hold_folded()
        page = self._hold_equal("once all is folded, every counter equals the ledgers")
        self._hold_gauges(page)
        last = plan_blows(self.seed, 1, 0, 1)[0]
        self.target.strike(last)
        self._hold_equal("after one more kill, every counter equals the ledgers")
        self._hold_writers()
        self._hold_clients()
        self._hold_prometheus()
        self._hold_figures()
        self.report.hold("the storm was as planned", self._troubles)
        if self.report.failures:
            self._keep_evidence()
        self.stack.run("stop", "--drain", "0")
        try:
            self.stack.assert_nothing_left()
            left = []
        except AssertionError as error:
            left = [str(error)]
        self.report.hold("stop leaves nothing behind", left)

    def _hold_flat(self, promise: str) -> None:
        """Hold that no shard of a dead pid stays in the flat directory."""
        found: list[str] = []

        def is_clean() -> bool:
            found[:] = [
                name
                for name in self.stack.shards
                if (pid := SHARD.search(name)) and not is_alive(int(pid[1]))
            ]
            return not found

        began = time.monotonic()
        broken = _wait(is_clean, CLAIMED_WITHIN_SECONDS)
        took = time.monotonic() - began
        if broken:
            pids = Counter(name.rpartition("_")[2] for name in found)
            owner = self._find_owner(found[0])
            broken = [f"{found[0]} of {owner}, and {len(found)} in all of {len(pids)} dead pids"]
        self.report.hold(promise, broken, f"{len(found)} strays after {took:.1f} s")

    def _find_owner(self, shard: str) -> str:
        pid = shard.rpartition("_")[2].removesuffix(".db")
        for path in (self.directory / "ledgers").iterdir():
            if path.name.split(".")[2] == pid:
                return path.name.rpartition(".")[0]
        return "nobody in this storm"

    def _hold_folded(self) -> None:
        """Hold that the claims become the base, within a moment."""
        retired = self.stack.multiproc_dir / ".retired"

        def find_left() -> list[str]:
            if not (retired / "base").exists():
                return ["there is no base"]
            return sorted(p.name for p in retired.iterdir() if p.name not in {"base", "bad"})

        broken = _wait(lambda: not find_left(), 10)
        if broken:
            broken = [f"10 s after the last death there are: {', '.join(find_left()[:10])}"]
        bad = len(list((retired / "bad").glob("*")))
        self.report.hold("the claims are folded", broken, f"{bad} shards in bad/")

    def _hold_equal(self, promise: str) -> dict[Series, float]:
        page = read_page(self.stack.scrape())
        self.ledgers.read()
        sure, written = self.ledgers.sure, self.ledgers.written
        wrong = self.ledgers.find_difference(page, sure.sums)
        broken = [f"{render_series(series)}: {why}" for series, why in sorted(wrong.items())]
        if wrong:
            for word, amounts in (
                ("missing", {s: sure.sums[s] - page.get(s, 0.0) for s in wrong}),
                ("too much", {s: page.get(s, 0.0) - written.sums[s] for s in wrong}),
            ):
                left = {series: amount for series, amount in amounts.items() if amount > 0}
                if left:
                    who = ", ".join(self.ledgers.explain(left))
                    broken.insert(0, f"{len(left)} series; {word} is what was counted by {who}")
        counters = [series for series in written.sums if series[0].endswith(("_total", "_count"))]
        slack = sum(written.sums[one] - sure.sums.get(one, 0.0) for one in counters)
        used = sum(written.sums[one] - page.get(one, 0.0) for one in counters)
        self.report.hold(
            promise,
            broken,
            f"{len(written.sums)} series, {sum(written.sums[one] for one in counters):g} counted in"
            f" {written.lines} lines; slack {written.lines - sure.lines} lines or {slack:g},"
            f" used {used:g}",
        )
        return page

    def _hold_gauges(self, page: dict[Series, float]) -> None:
        names = {name for name, _ in page if name.startswith("chaos_level_")}
        kept = {f"chaos_level_{mode}" for mode in ("max", "min", "sum", "mostrecent", "all")}
        broken = [f"{name} is missing" for name in sorted(kept - names)]
        broken += [f"{name} of the dead is still there" for name in sorted(names - kept)]
        self.report.hold("gauges stay, live gauges go with their process", broken)

    def _hold_writers(self) -> None:
        """Hold that nobody but us ended a session: whose ledger is open was killed by us."""
        planned = self._crowd.killed
        broken = [
            f"{ledger.owner} ended without closing its ledger, and nobody killed it"
            for ledger in self.ledgers.find_open()
            if ledger.owner not in planned and not self._is_stillborn(ledger.owner)
        ]
        broken += [f"{name} was started, and never was there" for name in self._find_unborn()]
        self.report.hold("no session died but as planned", broken)

    def _find_unborn(self) -> list[str]:
        born = self._crowd.born
        return [name for name, role in self._lives if role == LEADER and name not in born]

    def _is_stillborn(self, owner: str) -> bool:
        name = owner.partition(".")[0]
        return name[0] == "s" and plan_session(self.seed, int(name[1:])).end is End.STILLBORN

    def _hold_clients(self) -> None:
        self.report.hold(
            "no counter ever fell", self._explain(self.floor.falls, self.floor.fell_at)
        )
        self.report.hold(
            "no page ever said more or less than the ledgers",
            self._explain(self._auditor.wrong, self._auditor.wrong_at),
            f"{self._auditor.audits} audits",
        )
        requests = [one for scraper in (*self._scrapers, self._auditor) for one in scraper.requests]
        self._hold_requests("no scrape failed but in flight at a kill", requests)
        worst = max(one.ended - one.began for one in requests if one.good)
        self.report.facts.append(f"     the longest a scrape had to wait: {worst:.2f} s")

    def _explain(self, lines: list[str], moments: list[float]) -> list[str]:
        """Add to the first finding what happened about its time."""
        if lines:
            around = "\n    ".join(self.log.find_around(moments[0])[-50:])
            return [f"{lines[0]}\n    {around}", *lines[1:]]
        return []

    def _hold_requests(self, promise: str, requests: list[Request], limit: float = 1.0) -> None:
        """List every failure with its kill; without one, or beyond the limit, it is no excuse."""
        failed = [request for request in requests if not request.good]
        broken = []
        excused = []
        for one in failed:
            death = find_excuse(one, self.target.deaths)
            when = f"{self.log.at(one.began)}..{self.log.at(one.ended).strip()}"
            line = f"{when} {one.client} #{one.number}: {one.outcome}"
            if death is None:
                broken.append(f"{line}; {self._find_state(one)}")
            else:
                died = f"pid {death.pid} died of {death.how} at {self.log.at(death.dead_at)}"
                excused.append(f"     {line}; {died}")
        if len(excused) > max(1, limit * len(requests)):
            broken.append(f"{len(excused)} of {len(requests)} were in flight at a kill")
        share = 100 * len(failed) / max(1, len(requests))
        figure = f"{len(failed)} of {len(requests)} failed ({share:.2f} %)"
        self.report.hold(promise, broken, f"{figure}, {len(excused)} in flight at a kill")
        self.report.facts += excused

    def _find_state(self, request: Request) -> str:
        """Say what metricsd was at, when that excuses nothing."""
        for death in self.target.deaths:
            during = request.began < death.dead_at and death.struck_at < request.ended
            if death.how == "SIGSTOP" and during:
                since, until = self.log.at(death.struck_at), self.log.at(death.dead_at)
                return f"metricsd (pid {death.pid}) hung since {since}, dead at {until}"
        before = [death for death in self.target.deaths if death.dead_at < request.ended]
        last = f"the last was pid {before[-1].pid} at {self.log.at(before[-1].dead_at)}"
        return f"no metricsd died then; {last if before else 'none had died yet'}"

    def _hold_prometheus(self) -> None:
        if self._prometheus is None:
            self.report.facts.append(
                "     no Prometheus on this machine: apt-get install prometheus"
            )
            return
        self._prometheus.wait_until_it_scraped()
        scrapes = self._prometheus.find_scrapes(self.log)
        self._hold_requests("up is 1 for Prometheus", scrapes, limit=0.01)
        self.report.hold("Prometheus saw no counter fall", self._prometheus.find_falls())

    def _hold_figures(self) -> None:
        deaths, scale = self._crowd.deaths, self.scale
        blows = Counter(death.how for death in self.target.deaths)
        restarts = self.stack.status()["metricsd"]["restarts"]
        struck = len(self.target.deaths)
        asked = [] if restarts <= struck else [f"{restarts} restarts, but {struck} blows"]
        self.report.hold("metricsd died of our blows only", asked, f"{restarts} restarts")
        crowding = sorted(self._crowding)
        tenth, middle = crowding[len(crowding) // 10], crowding[len(crowding) // 2]
        living = (
            f"{crowding[0]} to {crowding[-1]}, {middle} in the middle, {tenth} or more for 90 %"
        )
        few = [living] if tenth < scale.wanted else []
        self.report.hold("enough sessions lived at a time", few, living)
        hung = [death for death in self.target.deaths if death.how == "SIGSTOP"]
        took = ", ".join(f"{death.dead_at - death.struck_at:.1f}" for death in hung)
        self.report.facts.append(f"     whoever was stopped was dead after {took} s")
        self.report.facts.append(
            f"     {deaths[LEADER]} sessions and {deaths['worker']} workers died,"
            f" {len(self._crowd.killed)} of them killed by us; metricsd was killed"
            f" {blows['SIGKILL']} times and stopped {blows['SIGSTOP']} times"
        )
        reached = ", ".join(f"{at} ({n})" for at, n in self.target.reached.most_common())
        self.report.facts.append(f"     it was struck when: {reached}")
        self._say_costs()

    def _say_costs(self) -> None:
        """Say where the processor's time went: a storm that starves itself proves little."""
        document = self.stack.status()
        supervisor = psutil.Process(document["supervisor"]["pid"]).cpu_times()
        ours, wall = psutil.Process().cpu_times(), time.monotonic() - self.log.began
        costs = {
            "supervisor": supervisor.user + supervisor.system,
            "its dead (sessions, metricsd)": supervisor.children_user + supervisor.children_system,
            "these clients": ours.user + ours.system,
            "ptsup commands": ours.children_user + ours.children_system,
        }
        said = ", ".join(f"{name} {seconds:.0f}" for name, seconds in costs.items())
        load = os.getloadavg()[1]
        self.report.facts.append(
            f"     seconds of processor in {wall:.0f}: {said}; load {load:.1f}"
        )

    def _keep_evidence(self) -> None:
        """Keep the shards, the logs and the state before `stop` clears them."""
        kept = self.directory / "evidence"
        if not kept.exists() and (self.stack.cwd / ".ops_local").exists():
            shutil.copytree(
                self.stack.cwd / ".ops_local",
                kept,
                symlinks=True,
                ignore=shutil.ignore_patterns("*.sock"),
            )
            self.report.failures.append(f"events, ledgers and shards are kept in {self.directory}")


def is_alive(pid: int) -> bool:
    """Whether a process has this pid; a zombie has none to speak of."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait(condition: object, seconds: float) -> list[str]:
    assert callable(condition)
    try:
        wait_for(condition, timeout_seconds=seconds)
    except AssertionError as error:
        return [str(error)]
    return []


def run_storm(stack: Stack, seed: int, scale: Scale, *, prometheus: bool) -> list[str]:
    """Run a storm and print how it was; give all that was not as promised."""
    storm = Storm(stack, seed, scale, prometheus=prometheus)
    report = storm.run()
    blows = [
        f"{death.how} {death.pid} at {storm.log.at(death.struck_at).strip()}"
        for death in storm.target.deaths
    ]
    print(f"\nchaos, seed {seed}: {scale}")
    print("\n".join(report.facts))
    print(f"     blows to metricsd: {', '.join(blows)}")
    return report.failures
