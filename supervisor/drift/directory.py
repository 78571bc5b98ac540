"""The rules about the shard directory and what lies in it, one for each kind of finding. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.drift import (
    CLAIM_FAILED,
    DIRECTORY_MISSING,
    DIRECTORY_REPLACED,
    FOREIGN_SHARD,
    MENDED_SECONDS,
    ORPHAN_SHARD,
    UNEXPECTED_FILE,
    UNREADABLE_SHARD,
    Finding,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.drift.facts import Plan, Snapshot


def find_directory_missing(plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find that there is no shard directory, or none that can be looked into."""
    if snapshot.directory.problem:
        yield Finding(
            kind=DIRECTORY_MISSING,
            subject=plan.directory,
            expected="the shard directory is there, and can be read",
            actual=f"{snapshot.directory.problem}; the last totals stay on the page, from memory",
            hint="bring it back (mkdir, if it was removed), then `ptsup restart` the sessions:"
            " what they count until then is lost",
            since=snapshot.now,
        )


def find_directory_replaced(plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find that another directory has the name of the one that we began with."""
    found = snapshot.directory.id
    if found is not None and plan.directory_id not in {None, found}:
        yield Finding(
            kind=DIRECTORY_REPLACED,
            subject=plan.directory,
            expected="the directory that ptsup began with",
            actual="another directory has its name now; metricsd reads the new one",
            hint="`ptsup restart` each session that is told as unlinked-shard, or put the old"
            " directory back; `ptsup stop` and `ptsup start` begin with the new one",
            since=snapshot.now,
        )


def find_unexpected_file(plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find what lies among the shards and is none of them."""
    for stray in snapshot.strays:
        yield Finding(
            kind=UNEXPECTED_FILE,
            subject=stray.name,
            expected=f"nothing but shards in {plan.directory}",
            actual=f"a {stray.what} that is no shard",
            hint="move it elsewhere: nobody reads it there, and a `ptsup start` may clear it away",
            since=snapshot.now,
        )


def find_unreadable_shard(_plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find shards that cannot be used, or not whole."""
    for shard in snapshot.defective:
        whose = (
            f"the session {shard.session}" if shard.session else "a process that is none of ours"
        )
        mend = f"`ptsup restart {shard.session}`" if shard.session else "end who wrote it"
        yield Finding(
            kind=UNREADABLE_SHARD,
            subject=shard.shard,
            expected="a shard as prometheus_client writes it",
            actual=f"{shard.reason}; written by {whose}; its last good values stay on the page",
            hint=f"{mend}: then what can be read of it is kept, and the file set aside",
            since=snapshot.now,
        )


def find_foreign_shard(_plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find living processes, none of ours, that write here."""
    for foreigner in snapshot.foreigners:
        yield Finding(
            kind=FOREIGN_SHARD,
            subject=f"pid {foreigner.pid}",
            expected="nobody but sessions of this supervisor writes shards here",
            actual=f"{foreigner.command or 'a hidden command'} writes {_join(foreigner.shards)}",
            hint="unset PROMETHEUS_MULTIPROC_DIR for it and start it anew, or make it a session",
            since=snapshot.now,
        )


def find_orphan_shard(_plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find whose shards were claimed though nobody had told of its death; listed for a while."""
    for orphan in snapshot.orphans:
        if snapshot.now - orphan.at < MENDED_SECONDS:
            yield Finding(
                kind=ORPHAN_SHARD,
                subject=f"pid {orphan.pid}",
                expected="whoever writes shards is alive, or its death is told",
                actual=f"it is dead, and left {_join(orphan.shards)}: claimed, so it goes on"
                " counting",
                hint="nothing has to be done; if it comes again, see who starts that process",
                since=orphan.at,
            )


def find_claim_failed(plan: Plan, snapshot: Snapshot) -> Iterator[Finding]:
    """Find the dead whose shards could not be moved."""
    for failed in snapshot.failed_claims:
        yield Finding(
            kind=CLAIM_FAILED,
            subject=failed.subject,
            expected=f"the shards of the dead are moved to {plan.directory}/.retired",
            actual=failed.reason,
            hint=f"see that it can be written to; tried again every {failed.again_seconds:g} s",
            since=failed.at,
        )


def _join(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
