"""The audit: what really is, looked at again and again; what drifted is told, once.

A full look every interval, and one at the files as soon as a file event asks for it, in a
thread. It reports; it never ends or mends anything.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from supervisor.drift import MENDED_SECONDS, Finding, diff_findings
from supervisor.drift.facts import Lapse, Plan
from supervisor.drift.find import find_drift, find_expiry
from supervisor.look.everything import Look, Looker
from supervisor.look.snapshot import Memory, Noted, build_snapshot
from supervisor.trouble import Trouble
from supervisor.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from supervisor.claims import Claims
    from supervisor.config import Config
    from supervisor.drift.facts import (
        FileId,
        LostListener,
        Orphan,
        Outdated,
        SessionPlan,
        Unrotatable,
    )
    from supervisor.look.everything import ConfigFile
    from supervisor.look.processes import Crew

log = logging.getLogger("ptsup")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """How often is looked, and for how long things may look otherwise than planned."""

    interval_seconds: float
    missing_shard_seconds: float
    stale_values_seconds: float


def build_settings(config: Config) -> AuditSettings:
    """Take what is the audit's from a configuration."""
    return AuditSettings(
        interval_seconds=config.audit_interval_seconds,
        missing_shard_seconds=config.missing_shard_seconds,
        stale_values_seconds=config.stale_values_seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What a start found out before there was an audit to tell of it."""

    lost_listeners: tuple[LostListener, ...] = ()
    orphans: tuple[Orphan, ...] = ()


@dataclass(slots=True, kw_only=True)
class Audit:
    """The audit of one supervisor.

    `find_crew` lists who lives, `find_planned` how each session was to run, `find_outdated` who
    goes on as a former supervisor spawned it; `find_health` gives metricsd's last health document.
    """

    directory: Path
    address: str
    port: int
    settings: AuditSettings
    claims: Claims
    find_crew: Callable[[], Crew]
    find_planned: Callable[[], Mapping[str, SessionPlan]]
    find_health: Callable[[], Mapping[str, Any]]
    find_outdated: Callable[[], tuple[Outdated, ...]]
    note_change: Callable[[], None]
    config_files: tuple[ConfigFile, ...] = ()
    inherited: Inherited = field(default_factory=Inherited)
    unrotatable: dict[str, Unrotatable] = field(default_factory=dict)  # by name
    findings: tuple[Finding, ...] = ()
    _lapses: list[Lapse] = field(default_factory=list)
    _directory_id: FileId | None = None
    _looker: Looker = field(init=False)
    _look: Look = field(default_factory=Look)
    _watch: Watch | None = None
    _watched: tuple[ConfigFile, ...] = ()
    _outdated: tuple[Outdated, ...] = ()
    _touched: set[str] = field(default_factory=set)
    _blind: bool = False  # what was touched is not known: look at the files anyway
    _look_at: float = -math.inf
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _known: tuple[object, ...] = ()
    _health: Mapping[str, Any] | None = None  # that which was reviewed last
    _memory: Memory = field(default_factory=Memory)
    _expires_at: float = math.inf
    _stirred: bool = True  # a turn may find something to do, whatever the time
    _trouble: Trouble = field(default_factory=lambda: Trouble("the audit failed, and tries again"))

    def __post_init__(self) -> None:
        """Begin with the directory as it is now: any other one is not ours."""
        self._looker = Looker(self.directory, self.port, self.settings.stale_values_seconds)
        try:
            found = self.directory.stat()
        except OSError:
            return
        self._directory_id = found.st_dev, found.st_ino

    # -- Looking --------------------------------------------------------------------------------

    def stir(self) -> None:
        """Have a turn at the next beat: something may be otherwise."""
        self._stirred = True

    def is_due(self, now: float) -> bool:
        """Whether a turn may find anything to do: to be asked at each beat."""
        return self._stirred or now >= self._look_at or now >= self._expires_at

    def turn(self, now: float) -> Coroutine[Any, Any, None] | None:
        """Begin a turn; what takes time is given back as work to be done beside.

        At a wakeup that comes anyway; `now` is monotonic.
        """
        self._stirred = True  # until it is known that there is nothing more
        try:
            if self._watch is None or self.config_files is not self._watched:
                self._watch = self._watch_anew()
            touched = self._watch.take()
            if touched is None:
                self._blind = True
            elif touched:
                self._touched |= {path.rpartition("/")[2] for path in touched}
            if self._looking.locked():
                return None  # the disk is slow; what was touched is looked at after this look
            if now >= self._look_at:
                return self._do(self.look)
            if self._blind or self._touched:
                return self._do(self._look_at_files)
            # Of all other news the publisher is told, and asks: see `collect`.
            if now >= self._expires_at or self.find_health() is not self._health:
                self.review()
            self._stirred = not self._watch.rest(self.stir)
        except Exception as error:  # noqa: BLE001 - what fails here is not the supervision
            self._trouble.note(error)
        return None

    async def _do(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it; that the audit fails ends no supervision."""
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - out of threads, say: the next turn may do it
            self._blind = True  # what was touched went with the attempt
            self._trouble.note(error)

    def _watch_anew(self) -> Watch:
        self.close()
        self._watched = self.config_files
        # Its parent tells when the directory itself comes back.
        files = (file.path for file in self._watched)
        return Watch((self.directory, self.directory.parent, *files))

    def reconfigure(self, settings: AuditSettings, config_files: tuple[ConfigFile, ...]) -> None:
        """Go by other settings, from a look on that is due now."""
        self.settings, self.config_files = settings, config_files
        self._look_at = -math.inf

    def close(self) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def look(self) -> None:
        """Look at everything now."""
        async with self._looking:
            now = time.monotonic()
            # Half a second early is nearer than half a second late.
            self._look_at = now + self.settings.interval_seconds - 0.5
            touched = self._begin_look()
            self._looker.stale_values_seconds = self.settings.stale_values_seconds
            self._look = await asyncio.to_thread(
                self._looker.look_at_all,
                self.find_crew(),
                touched,
                self.config_files,
                self.find_planned(),
                now,
            )
        await self._end_look()
        self._trouble.clear()

    async def _look_at_files(self) -> None:
        async with self._looking:
            touched = self._begin_look()
            self._look = await asyncio.to_thread(
                self._looker.look_at_files, self.find_crew(), touched, self.config_files
            )
        await self._end_look()

    def _begin_look(self) -> frozenset[str]:
        touched = frozenset(self._touched)
        self._touched.clear()
        self._blind = False
        self._outdated = self.find_outdated()
        return touched

    async def _end_look(self) -> None:
        here = self._look.directory.facts.id is not None
        self.claims.note_look(clean=here and self._look.writers.all_own)
        if self._look.writers.dead:
            await self.claims.sweep()
        self.review()

    # -- Telling --------------------------------------------------------------------------------

    def note_metricsd(self, reason: str | None) -> None:
        """Note that metricsd does not do its work, and why; or (None) that it does again."""
        now = time.monotonic()
        going_on = bool(self._lapses) and self._lapses[-1].ended is None
        if reason is None and going_on:
            self._lapses[-1] = replace(self._lapses[-1], ended=now)
        elif reason is not None and not going_on:
            recent = [each for each in self._lapses if now - (each.ended or now) < MENDED_SECONDS]
            self._lapses = [*recent, Lapse(reason, now)]

    def collect(self) -> tuple[Finding, ...]:
        """List all that is not as it should be, and for a while what was mended."""
        try:
            self.review()
        except Exception as error:  # noqa: BLE001 - as above
            self._trouble.note(error)
        return self.findings

    def review(self) -> None:
        """Find the drift in what is known, if there is news; tell what appeared and cleared."""
        now = time.monotonic()
        health = self._health = self.find_health()
        noted = Noted(
            failed_claims=tuple(self.claims.failed.values()),
            orphans=(*self.inherited.orphans, *self.claims.orphans),
            lapses=tuple(self._lapses),
            lost_listeners=self.inherited.lost_listeners,
            unrotatable=tuple(self.unrotatable.values()),
            outdated=self._outdated,
        )
        known = self._look, health.get("unreadable"), health.get("label_violations"), noted
        if known == self._known and now < self._expires_at:
            return
        snapshot = build_snapshot(self._look, health, noted, self._memory, now)
        plan = self._build_plan()
        change = diff_findings(self.findings, find_drift(plan, snapshot))
        self._known, self._expires_at = known, find_expiry(plan, snapshot)
        self.findings = change.findings
        for found in change.appeared:
            log.warning("%s", render_appeared(found))
        for found in change.cleared:
            lasted = now - found.since
            log.info("%s: %s: cleared after %.0f s", found.kind, found.subject, lasted)
        if change.appeared or change.cleared:
            self.note_change()

    def _build_plan(self) -> Plan:
        return Plan(
            directory=str(self.directory),
            directory_id=self._directory_id,
            address=self.address,
            port=self.port,
            sessions=self.find_planned(),
            missing_shard_seconds=self.settings.missing_shard_seconds,
            stale_values_seconds=self.settings.stale_values_seconds,
        )


def render_appeared(found: Finding) -> str:
    """Say in a line of the log what drifted and what to do."""
    return f"{found.kind}: {found.subject}: {found.actual}. {found.hint}"
