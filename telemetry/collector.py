"""The scrape and the fold: a shard directory becomes one page, and its dead one base.

It owns the readings and the base of one directory. Scrapes follow one another and share their
work; a fold adds up and writes beside them and stops them only for its one rename. A shard or a
directory that cannot be read costs no scrape: what was last read stays on the page.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from telemetry import own_metrics
from telemetry.base import BaseError, absorb_all, absorb_removed
from telemetry.complaints import Complaints
from telemetry.fold import publish, remove_claims, write_next
from telemetry.nothing import NoSums
from telemetry.page import Exposition
from telemetry.retired import Retired, RetiredHeldError
from telemetry.shards import NOTHING, Defect, Placed, Stillness, list_directory
from telemetry.single_flight import SingleFlight
from telemetry.violations import Violations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from telemetry.answers import Page
    from telemetry.base import ShardEntries
    from telemetry.fold import Claim
    from telemetry.groups import Source
    from telemetry.nothing import NoReadings
    from telemetry.plan import Totals
    from telemetry.policy import LabelPolicy
    from telemetry.readings import Readings
    from telemetry.shards import DirectoryMark, Listing, Shard
    from telemetry.sums import Sums

# Shards move while they are listed; each attempt begins with a new listing.
_LISTINGS: Final = 8
# So many claims are folded at once: a storm of deaths must not make one long fold.
_CLAIMS_AT_ONCE: Final = 64
# An import that fails may cost much, and numpy may just be being installed anew.
_IMPORT_AGAIN_SECONDS: Final = 10.0
# So much is told in the health document, however much there is.
_TOLD: Final = 100

_logger = logging.getLogger(__name__)


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

    flat: Listing = NOTHING
    placed: list[Placed] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    defects: Counter[Defect] = field(default_factory=Counter)
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
        self._complaints = Complaints()
        self._retired = Retired(directory, self._complaints)
        self._policy = policy
        self._descriptor_limit = descriptor_limit
        self._sums: Sums | NoSums = NoSums()
        self._listed = _Listed()
        self._stillness = Stillness()
        self._exposition = Exposition()
        self._supervisor = own_metrics.SupervisorPart(supervisor)
        self._turn = threading.Lock()  # whoever reads, or changes what is read
        self._folding = threading.Lock()
        self._flight = SingleFlight(self._merge, self._turn)
        self._violations = Violations()
        self._health: dict[str, Any] = {}
        self._merged_at = -math.inf
        self._shard_complaints: dict[str, str] = {}
        self._import_again_at = -math.inf

    def open(self) -> None:
        """Take over the base that there is, and what a crash left of a fold.

        Raises RetiredHeldError when another process folds there, OSError when the base is there
        and cannot be read now.
        """
        self._retired.open()
        self._use_base()

    def close(self) -> None:
        """Give back the lock and the shards."""
        self._retired.close()
        self._readings.drop(list(self._readings.sources.values()))

    @property
    def _readings(self) -> Readings | NoReadings:
        return self._sums.readings

    def _begin_sums(self) -> None:
        """Read and add up from now on, where there was nothing so far."""
        if not isinstance(self._sums, NoSums) or time.monotonic() < self._import_again_at:
            return
        try:
            # Imported here: numpy takes longer than all the rest of a start together.
            from telemetry.sums import Sums  # noqa: PLC0415
        except Exception as error:  # noqa: BLE001  a numpy that is broken may raise anything
            self._import_again_at = time.monotonic() + _IMPORT_AGAIN_SECONDS
            self._sums.readings.starved = True
            self._complaints.note("import", f"no totals are on the page: {_render_cause(error)}")
            return
        self._complaints.note("import", "")
        self._sums = Sums(
            descriptor_limit=self._descriptor_limit,
            policy=self._policy,
            violations=self._violations,
        )
        self._sums.use(self._retired.base)
        self._listed = _Listed()  # nothing of it was read

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
        totals = self._sums.add_up()
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
                self._go_on_unlisted(error)
                break
            except OSError as error:
                self._go_on_unlisted(error)
                break
            self._complaints.note("list", "")
            if listed.placed:
                self._begin_sums()
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

    def _go_on_unlisted(self, error: OSError) -> None:
        """Keep what there was; but nobody can mark the dead now, so their live gauges go here."""
        self._complaints.note("list", f"cannot list the shards: {error}")
        self._readings.drop(self._readings.find_dead_gauges())

    def _list(self) -> _Listed:
        # In this order: a shard moves from the flat directory into a claim, and is seen in one.
        former, refused = self._listed, self._readings.refused
        mark, flat = self._stillness.find_mark(self._directory), former.flat
        if mark is None or mark != former.mark:
            flat = list_directory(self._directory, flat)
        claims = self._retired.list_claims(former.claims)
        if flat is former.flat and not claims and not former.claims and not refused:
            former.mark = mark
            return former
        defects = Counter(defect for _, defect in flat.defects)
        placed = [Placed(shard, None) for shard in flat.shards]
        for claim in claims:
            placed += [Placed(shard, claim.number or 0) for shard in claim.shards]
            defects.update(defect for _, defect in claim.defects)
        return _Listed(flat, placed, claims, defects, mark)

    def _gather_facts(self, seconds: float) -> own_metrics.Facts:
        listed = self._listed
        return own_metrics.Facts(
            live=len(listed.flat.by_name),
            retired=listed.in_claims,
            unreadable=self._count_defects(),
            scrape_seconds=seconds,
            violations_total=self._violations.total,
            dropped_total=self._retired.base.dropped,
        )

    def _count_defects(self) -> Counter[str]:
        counted: Counter[str] = Counter(self._listed.defects)
        for _, defects in self._readings.list_defects():
            counted.update(defects)
        return counted

    def _complain_of_shards(self) -> None:
        """Name each shard that cannot be used, or not whole, once."""
        if self._complaints.find("import"):
            return  # that is said already, and it is true of them all
        found = {}
        for shard, defects in self._readings.list_defects():
            if defects != {Defect.EMPTY}:
                found[shard.name] = ", ".join(sorted(defects))
        for name, text in found.items():
            if self._shard_complaints.get(name) != text:
                _logger.warning("cannot use %s, or not all of it: %s", name, text)
        self._shard_complaints = found

    def describe(self) -> dict[str, Any]:
        """Give the health document's part, as of the last scrape; it waits for nobody."""
        return self._health

    def _build_health(self) -> dict[str, Any]:
        return {
            "shards_unreadable": {str(d): n for d, n in self._count_defects().items()},
            "unreadable": list(islice(self._tell_unreadable(), _TOLD)),
            "shards_retired": self._listed.in_claims,
            "base_claim": self._retired.base.claim,
            "label_violations_total": self._violations.total,
            "label_violations": list(islice(self._violations.tell(), _TOLD)),
            "directory": self._complaints.find("list") or "ok",
        }

    def _tell_unreadable(self) -> Iterator[dict[str, str]]:
        """Name the flat shards that cannot be used, or not whole, and say why."""
        for shard, defects in self._readings.list_defects():
            told = sorted(defects - {Defect.EMPTY})
            if told and shard.path.parent == self._directory:
                yield {"shard": shard.path.name, "defects": ", ".join(told)}

    # -- Folding ------------------------------------------------------------------------------

    def fold(self) -> bool:
        """Fold the complete claims into the base; tell whether there was anything to fold."""
        with self._folding:
            try:
                return self._fold()
            except (OSError, BaseError, RetiredHeldError) as error:
                self._complaints.note("fold", f"cannot fold: {error}")
                return False

    def _fold(self) -> bool:
        if not self._retired.take_lock():
            return False
        with self._turn:
            claims = self._choose_claims()
            gone = self._readings.find_unlinked_dead()
            if not claims and not gone and not self._retired.is_base_lost():
                return False
            chosen = {claim.path: self._find_sources(claim) for claim in claims}
            bad = self._find_bad(chosen)
            held = [
                (claim.number or 0, [self._describe(source) for source in chosen[claim.path]])
                for claim in claims
            ]
            removed = [self._describe(source) for source in gone]
        base = absorb_removed(absorb_all(self._retired.base, held), removed)
        write_next(self._retired.path, base)
        with self._turn:
            publish(self._retired.path)
            self._readings.drop(source for sources in chosen.values() for source in sources)
            self._readings.drop(gone)
            self._retired.use(base)
            self._use_base()
        self._complaints.note("fold", "")
        retired = self._retired.path
        self._complaints.attempt(
            "remove what was folded", lambda: remove_claims(retired, claims, bad)
        )
        return True

    def _choose_claims(self) -> list[Claim]:
        """Choose the complete claims to fold, after a reading that is the last word on them."""
        if not self._retired.has_claims():
            return []
        self._read()
        # What could not be opened now may be opened later, and is not to be folded past.
        if self._readings.starved or self._complaints.any_of(("list", "claims")):
            return []
        # Where everything moves, the list may be an old one: of before the last fold.
        folded = self._retired.base.claim
        complete = [claim for claim in self._listed.claims if (claim.number or 0) > folded]
        return complete[:_CLAIMS_AT_ONCE]

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

    def _use_base(self) -> None:
        if self._retired.base.sections:
            self._begin_sums()
        self._sums.use(self._retired.base)


def _render_cause(error: BaseException) -> str:
    """Say in a line what an import failed of: numpy wraps it in a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next(iter(str(error).strip().splitlines()), "")
    return f"cannot import numpy: {first or type(error).__name__}"


def _is_twin(source: Source, shard: Shard) -> bool:
    """Whether a claimed shard is another name of a file that lies elsewhere: it counts there."""
    if source.shard.path == shard.path:
        return False
    try:
        return os.path.samestat(source.shard.path.lstat(), shard.path.lstat())
    except FileNotFoundError:  # it was moved here while we listed
        return False


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
