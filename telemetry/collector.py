"""The scrape and the fold: a shard directory becomes one page, and its dead one base.

It owns the readings and the base of one directory. Scrapes follow one another and share their
work; a fold adds up and writes beside them and stops them only for its one rename. A shard or a
directory that cannot be read costs no scrape: what was last read stays on the page.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from telemetry import own_metrics
from telemetry.base import Base, BaseError, absorb_all, absorb_removed
from telemetry.families import OWN_MODES, Totals, add_up, build_base_groups, build_plan
from telemetry.fold import (
    BASE,
    Claim,
    list_claims,
    lock_retired,
    publish,
    read_base,
    recover,
    remove_claims,
    set_aside_base,
    write_next,
)
from telemetry.page import Exposition
from telemetry.readings import Placed, Readings
from telemetry.shards import (
    NOTHING,
    RETIRED,
    Defect,
    DirectoryMark,
    Listing,
    Stillness,
    list_directory,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from telemetry.answers import Page
    from telemetry.base import Section, ShardEntries
    from telemetry.families import Plan, Violation
    from telemetry.groups import Group, Source
    from telemetry.policy import LabelPolicy
    from telemetry.shards import DirectoryMark, Shard

T = TypeVar("T")
# Device, inode, size and time of the last writing.
FileMark: TypeAlias = tuple[int, int, int, int]

# Shards move while they are listed; each attempt begins with a new listing.
_LISTINGS: Final = 8
# So many claims are folded at once: a storm of deaths must not make one long fold.
_CLAIMS_AT_ONCE: Final = 64
# So much is told in the health document, however much there is.
_TOLD: Final = 100
_TOLD_CHARACTERS: Final = 200

_logger = logging.getLogger(__name__)


class RetiredHeldError(Exception):
    """Another process folds the claims of this directory."""

    def __init__(self, retired: Path) -> None:
        super().__init__(f"another metricsd has {retired}")


class SingleFlight(Generic[T]):
    """Lets callers share one run of a costly function, never a run that began before the call.

    Runs follow one another. Who arrives during a run waits for the next one; all who arrived
    meanwhile share it. A run that raises is shared with nobody: the next caller runs anew.
    """

    def __init__(self, function: Callable[[], T], turn: threading.Lock | None = None) -> None:
        self._function = function
        self._turn = turn or threading.Lock()
        self._begun = 0  # counts up as a run begins, inside the turn
        self._finished: tuple[int, T] | None = None

    def call(self) -> T:
        """Give the value of a run that began after this call did."""
        begun_before = self._begun
        with self._turn:
            if self._finished is not None and self._finished[0] > begun_before:
                return self._finished[1]
            self._begun += 1
            value = self._function()
            self._finished = (self._begun, value)
            return value


class Merge:
    """The totals of one scrape, rendered at most once for each content type."""

    def __init__(self, totals: Totals, own: own_metrics.Statement) -> None:
        self.totals = totals
        self._own = own
        self._rendering = threading.Lock()
        self._pages: dict[str, Page] = {}

    def render(self, exposition: Exposition, accept_header: str) -> Page:
        """Render the totals, or give the page that was rendered for an earlier caller."""
        chosen = exposition.choose(accept_header)
        with self._rendering:
            page = self._pages.get(chosen.content_type)
            if page is None:
                page = exposition.render(chosen, self.totals, self._own)
                self._pages[chosen.content_type] = page
            return page


@dataclass(slots=True)
class _Listed:
    """One listing of the directory: its shards in order, its claims, and what is wrong in it."""

    flat: Listing
    placed: list[Placed]
    claims: list[Claim]
    defects: Counter[Defect]
    mark: DirectoryMark | None = None  # of the flat directory, just before it was listed

    @property
    def in_claims(self) -> int:
        """How many of the shards lie in claims."""
        return len(self.placed) - len(self.flat.by_name)


class ShardCollector:
    """The collector of one shard directory.

    `policy` None shows every label. With `supervisor` the page carries what that file says, as
    long as the supervisor that wrote it lives.
    """

    def __init__(
        self,
        directory: Path,
        *,
        descriptor_limit: int,
        policy: LabelPolicy | None,
        supervisor: Path | None = None,
    ) -> None:
        self._directory = directory
        self._retired = directory / RETIRED
        self._policy = policy
        self._readings = Readings(descriptor_limit=descriptor_limit)
        self._base = Base()
        self._base_file: FileMark | None = None
        self._base_groups: dict[Section, Group] = {}
        self._plan: Plan | None = None
        self._planned_at: tuple[object, ...] = ()
        self._planned_for: tuple[object, ...] = ()
        self._listed = _Listed(NOTHING, [], [], Counter())
        self._stillness = Stillness()
        self._retired_stillness = Stillness()
        self._claimless: DirectoryMark | None = None  # of `.retired`, when no claim was in it
        self._exposition = Exposition()
        self._supervisor = own_metrics.SupervisorPart(supervisor)
        self._turn = threading.Lock()  # whoever reads, or changes what is read
        self._folding = threading.Lock()
        self._flight = SingleFlight(self._merge, self._turn)
        self._violations: dict[Violation, int] = {}
        self._violations_total = 0
        self._health: dict[str, Any] = {}
        self._merged_at = -math.inf
        self._lock: int | None = None  # on `.retired/`: without it nothing is folded
        self._complaints: dict[str, str] = {}
        self._shard_complaints: dict[str, str] = {}

    def open(self) -> None:
        """Take over the base that there is; what a crash left of a fold is finished or removed.

        Raises RetiredHeldError when another process folds there, OSError when the base is there
        and cannot be read now.
        """
        base = Base()
        self._try("lock .retired", self._take_lock)  # on a read-only disk there is no fold
        try:
            self._refuse_other()
            base = read_base(self._retired)
        except NotADirectoryError as error:
            self._complain("claims", f"cannot use {self._retired}: {error.strerror}")
        except BaseError as error:
            _logger.error("the base is unreadable: %s", error)  # noqa: TRY400
            self._try("set it aside", self._set_aside_base)
        self._use_base(base)
        if self._lock is not None:
            self._try("recover", lambda: recover(self._retired, base))

    def _set_aside_base(self) -> None:
        _logger.warning("it was kept as %s", set_aside_base(self._retired))

    def close(self) -> None:
        """Give back the lock and the shards."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._readings.drop(list(self._readings.sources.values()))

    # -- Scraping -----------------------------------------------------------------------------

    def render(self, accept_header: str) -> Page:
        """Render the page; whatever the shards are, there is one."""
        return self._flight.call().render(self._exposition, accept_header)

    def look(self, age_seconds: float) -> None:
        """Read the shards, for `describe` to know of them, unless that was done just now."""
        if time.monotonic() - self._merged_at >= age_seconds:
            self._flight.call()

    def _merge(self) -> Merge:
        self._merged_at = time.monotonic()
        began = time.perf_counter()
        self._read()
        plan = self._find_plan()
        totals = add_up(plan)
        facts = self._gather_facts(time.perf_counter() - began)
        self._health = self._build_health()
        own = own_metrics.build_statement(facts, handed=self._supervisor.read())
        return Merge(totals, own)

    def _read(self) -> None:
        """List the directory and read every shard; without a directory the old ones stay."""
        self._readings.begin()
        for attempt in range(_LISTINGS):
            try:
                listed = self._list()
            except FileNotFoundError as error:
                if attempt < _LISTINGS - 1 and self._directory.is_dir():
                    continue  # a claim was completed under our eyes
                self._complain("list", f"cannot list the shards: {error}")
                break
            except OSError as error:
                self._complain("list", f"cannot list the shards: {error}")
                break
            self._complain("list", "")
            if listed is self._listed:
                break
            if attempt == 0 and self._readings.find_missing(listed.placed):
                continue  # it may have been put back between two listings
            try:
                self._readings.sync(listed.placed)
            except FileNotFoundError:
                continue
            self._listed = listed
            break
        self._readings.refresh()
        self._complain_of_shards()

    def _list(self) -> _Listed:
        # In this order: a shard moves from the flat directory into a claim, and is seen in one.
        former, refused = self._listed, self._readings.refused
        mark, flat = self._stillness.find_mark(self._directory), former.flat
        if mark is None or mark != former.mark:
            flat = list_directory(self._directory, flat)
        claims = self._list_claims()
        if flat is former.flat and not claims and not former.claims and not refused:
            former.mark = mark
            return former
        defects = Counter(defect for _, defect in flat.defects)
        placed = [Placed(shard, None) for shard in flat.shards]
        for claim in claims:
            placed += [Placed(shard, claim.number or 0) for shard in claim.shards]
            defects.update(defect for _, defect in claim.defects)
        return _Listed(flat, placed, claims, defects, mark)

    def _list_claims(self) -> list[Claim]:
        """List what the base does not hold yet; where that cannot be done, the last list stands.

        Raises FileNotFoundError when a claim goes while it is listed.
        """
        try:
            self._refuse_other()
            claims = list_claims(self._retired, after=self._base.claim)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._complain("claims", f"cannot use {self._retired}: {error.strerror or error}")
            folded = self._base.claim
            return [c for c in self._listed.claims if c.number is None or c.number > folded]
        self._complain("claims", "")
        return claims

    def _find_plan(self) -> Plan:
        """Find what adds up with what; decided anew only when the series have changed."""
        seen = (self._readings.version, *self._base_groups.values())
        if self._plan is None or seen != self._planned_at:
            groups = [group for group in self._readings.groups.values() if group.keys]
            first = {group: min(source.order for source in group.sources) for group in groups}
            ordered = [*self._base_groups.values(), *sorted(groups, key=first.__getitem__)]
            # A process's own gauges depend on who there is, all others on which groups there are.
            own = any(group.mode in OWN_MODES for group in ordered) or self._violations
            wanted = (seen if own else (), *ordered)
            if self._plan is None or wanted != self._planned_for:
                self._plan, self._planned_for = build_plan(ordered, self._policy), wanted
                self._note_violations(self._plan)
            self._planned_at = seen
        return self._plan

    def _note_violations(self, plan: Plan) -> None:
        for violation, series in plan.violations.items():
            self._violations_total += max(0, series - self._count_noted(violation, plan))
            if violation not in self._violations:
                _logger.warning(
                    "left off the page: %s of pid %d has the label %r",
                    ascii(violation.family),
                    violation.pid,
                    violation.label,
                )
        self._violations = dict(plan.violations)

    def _count_noted(self, violation: Violation, plan: Plan) -> int:
        """Count the series of a violation that are counted already, by whoever wrote them."""
        noted = self._violations.get(violation, 0)
        if violation.pid:
            return noted
        # What a pid left to the base was counted when it was that pid's.
        return noted + sum(
            series
            for former, series in self._violations.items()
            if former[:2] == violation[:2] and former not in plan.violations
        )

    def _gather_facts(self, seconds: float) -> own_metrics.Facts:
        listed = self._listed
        return own_metrics.Facts(
            live=len(listed.flat.by_name),
            retired=listed.in_claims,
            unreadable=self._count_defects(),
            scrape_seconds=seconds,
            violations_total=self._violations_total,
            dropped_total=self._base.dropped,
        )

    def _count_defects(self) -> Counter[str]:
        counted: Counter[str] = Counter(self._listed.defects)
        for _, defects in self._readings.list_defects():
            counted.update(defects)
        return counted

    def _complain_of_shards(self) -> None:
        """Name each shard that cannot be used, or not whole, once."""
        found = {}
        for shard, defects in self._readings.list_defects():
            if defects != {Defect.EMPTY}:
                found[shard.name] = ", ".join(sorted(defects))
        for name, text in found.items():
            if self._shard_complaints.get(name) != text:
                _logger.warning("cannot use %s, or not all of it: %s", name, text)
        self._shard_complaints = found

    def _complain(self, subject: str, text: str) -> None:
        """Log what is wrong once; a subject that is well again may be complained of again."""
        if not text:
            self._complaints.pop(subject, None)
        elif self._complaints.get(subject) != text:
            _logger.warning("%s", text)
            self._complaints[subject] = text

    def describe(self) -> dict[str, Any]:
        """Give the health document's part, as of the last scrape; it waits for nobody."""
        return self._health

    def _build_health(self) -> dict[str, Any]:
        return {
            "shards_unreadable": {str(d): n for d, n in self._count_defects().items()},
            "unreadable": list(islice(self._tell_unreadable(), _TOLD)),
            "shards_retired": self._listed.in_claims,
            "base_claim": self._base.claim,
            "label_violations_total": self._violations_total,
            "label_violations": list(islice(self._tell_violations(), _TOLD)),
            "directory": self._complaints.get("list", "ok"),
        }

    def _tell_unreadable(self) -> Iterator[dict[str, str]]:
        """Name the flat shards that cannot be used, or not whole, and say why."""
        for shard, defects in self._readings.list_defects():
            told = sorted(defects - {Defect.EMPTY})
            if told and shard.path.parent == self._directory:
                yield {"shard": shard.path.name, "defects": ", ".join(told)}

    def _tell_violations(self) -> Iterator[dict[str, Any]]:
        """Tell of the series left off the page; first of those whose writers may still live."""
        for found in sorted(self._violations, key=lambda found: not found.pid):
            yield {
                "metric": found.family[:_TOLD_CHARACTERS],
                "label": found.label[:_TOLD_CHARACTERS],
                "pid": found.pid,
                "shard": found.shard,
                "series": self._violations[found],
            }

    # -- Folding ------------------------------------------------------------------------------

    def fold(self) -> bool:
        """Fold the complete claims into the base; tell whether there was anything to fold."""
        with self._folding:
            try:
                return self._fold()
            except (OSError, BaseError, RetiredHeldError) as error:
                self._complain("fold", f"cannot fold: {error}")
                return False

    def _fold(self) -> bool:
        self._take_lock()
        if self._lock is None:
            return False
        with self._turn:
            claims = self._choose_claims()
            gone = self._readings.find_unlinked_dead()
            if not claims and not gone and not self._is_base_lost():
                return False
            chosen = {claim.path: self._find_sources(claim) for claim in claims}
            bad = self._find_bad(chosen)
            held = [
                (claim.number or 0, [self._describe(source) for source in chosen[claim.path]])
                for claim in claims
            ]
            removed = [self._describe(source) for source in gone]
        base = absorb_removed(absorb_all(self._base, held), removed)
        write_next(self._retired, base)
        with self._turn:
            publish(self._retired)
            self._readings.drop(source for sources in chosen.values() for source in sources)
            self._readings.drop(gone)
            self._use_base(base)
        self._complain("fold", "")
        self._try("remove what was folded", lambda: remove_claims(self._retired, claims, bad))
        return True

    def _take_lock(self) -> None:
        """Take the lock, anew when the directory was replaced; not in a missing directory."""
        if self._lock is not None:
            if _is_same(self._lock, self._retired):
                return
            os.close(self._lock)
            self._lock = None
        if self._directory.is_dir():
            self._refuse_other()
            self._lock = lock_retired(self._directory)
            if self._lock is None:
                raise RetiredHeldError(self._retired)

    def _refuse_other(self) -> None:
        """Raise NotADirectoryError when `.retired` is anything else, a link to one included."""
        if os.path.lexists(self._retired) and (
            self._retired.is_symlink() or not self._retired.is_dir()
        ):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(self._retired))

    def _choose_claims(self) -> list[Claim]:
        """Choose the complete claims to fold, after a reading that is the last word on them."""
        if not self._has_claims():
            return []
        self._read()
        # What could not be opened now may be opened later, and is not to be folded past.
        if self._readings.starved or not {"list", "claims"}.isdisjoint(self._complaints):
            return []
        # Where everything moves, the list may be an old one: of before the last fold.
        complete = [
            claim for claim in self._listed.claims if (claim.number or 0) > self._base.claim
        ]
        return complete[:_CLAIMS_AT_ONCE]

    def _has_claims(self) -> bool:
        """Whether there may be complete ones; one that was left alone since is not opened again.

        Who asks after our health every second would else wake whoever watches the directory.
        """
        try:
            mark = self._retired_stillness.find_mark(self._retired)
        except OSError:
            mark = None
        if mark is not None and mark == self._claimless:
            return False
        found = any(name.startswith("claim-") for name in _list_names(self._retired))
        self._claimless = None if found else mark
        return found

    def _is_base_lost(self) -> bool:
        """Whether our base is no longer the file we published, its directory being there.

        It was replaced, by one without a base, or somebody wrote to it or cut it.
        """
        return (
            bool(self._base.sections)
            and self._directory.is_dir()
            and _mark(self._retired / BASE) != self._base_file
        )

    def _find_sources(self, claim: Claim) -> list[Source]:
        found = ((shard, self._readings.sources.get(shard.inode)) for shard in claim.shards)
        return [
            source for shard, source in found if source is not None and not _is_twin(source, shard)
        ]

    def _find_bad(self, chosen: Mapping[Path, Sequence[Source]]) -> dict[Path, Defect]:
        """Find the shards of these claims that a person may want to look at, and why."""
        bad = {
            shard.path: defect
            for shard, defect in self._readings.refused.values()
            if shard.path.parent in chosen
        }
        for source in (source for sources in chosen.values() for source in sources):
            for defect in self._readings.find_defects(source) - {Defect.EMPTY}:
                bad[source.shard.path] = defect
        return bad

    def _describe(self, source: Source) -> ShardEntries:
        shard = source.shard
        return shard.kind, shard.mode, shard.pid, self._readings.entries(source)

    def _use_base(self, base: Base) -> None:
        self._base = base
        self._base_file = _mark(self._retired / BASE)
        self._base_groups = build_base_groups(base, self._base_groups)

    def _try(self, what: str, action: Callable[[], None]) -> None:
        """Do what no total depends on, and say so when it fails."""
        try:
            action()
        except OSError as error:
            self._complain(what, f"cannot {what}: {error}")
        else:
            self._complain(what, "")


def _is_twin(source: Source, shard: Shard) -> bool:
    """Whether a claimed shard is another name of a file that lies elsewhere: it counts there."""
    if source.shard.path == shard.path:
        return False
    try:
        return os.path.samestat(source.shard.path.lstat(), shard.path.lstat())
    except FileNotFoundError:  # it was moved here while we listed
        return False


def _mark(path: Path) -> FileMark | None:
    """Take down what tells a file from another, and from itself once it is written to."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _list_names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208  names are all that is asked for
    except OSError:
        return []


def open_collector(
    directory: Path,
    *,
    descriptor_limit: int = 4096,
    policy: LabelPolicy | None = None,
    supervisor: Path | None = None,
) -> ShardCollector:
    """Build the collector of a directory, and take over the base that lies there.

    Raises RetiredHeldError when another process folds there, and OSError when the base cannot be
    read now; it may be later.
    """
    collector = ShardCollector(
        directory, descriptor_limit=descriptor_limit, policy=policy, supervisor=supervisor
    )
    collector.open()
    return collector
