"""Folding: the files of `.retired/`, read and changed in the one order that loses nothing.

Only metricsd folds, under the lock: `recover`, absorb the complete claims newer than the base,
`write_next`, `publish`, and only then `remove_claims`. It never touches the flat directory nor a
claim that is still open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from telemetry.base import BASE_LIMIT_BYTES, Base, BaseError, parse_base, render_base
from telemetry.directories import create_private, lock_directory
from telemetry.shards import (
    RETIRED,
    Defect,
    Shard,
    ShardError,
    list_directory,
    list_shards,
    open_shard,
    read_shard,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

BASE: Final = "base"
NEXT: Final = "base.tmp"
# What a person may want to look at: `7.claim-4.truncated.counter_123.db`, `8.base`. The number
# in front counts up, so that the newest are known whatever the clock does.
BAD: Final = "bad"
BAD_SHARDS_KEPT: Final = 64
BAD_SHARD_BYTES_KEPT: Final = 16 << 20
BAD_BASES_KEPT: Final = 4

_CLAIM_NAME: Final = re.compile(r"(claim|open)-([1-9][0-9]{0,17})")
_BAD_NAME: Final = re.compile(r"([1-9][0-9]{0,17})\.(.+)")


@dataclass(frozen=True, slots=True)
class Claim:
    """A directory of dead pids' shards, their live gauges left out.

    `number` is None while it is open: not to be folded yet, but to be read. `defects` names what
    lies in it and is no shard, though called like one.
    """

    number: int | None
    path: Path
    shards: tuple[Shard, ...]
    defects: tuple[tuple[str, Defect], ...] = ()


# -- Reading --------------------------------------------------------------------------------------


def list_claims(retired: Path, *, after: int = 0) -> list[Claim]:
    """List the claims: complete ones by number, then open ones; none when there is no directory.

    Of the complete ones only those with a number above `after`.

    Raises FileNotFoundError when a claim goes, or is completed, while it is listed: list anew.
    Raises OSError when one cannot be listed; it must not be folded past.
    """
    claims = []
    opened: dict[int, str] = {}
    for is_open, number, path, inode in _find_claims(retired):
        if not is_open and number <= after:
            continue
        listing = list_directory(path)
        shards = tuple(shard for shard in listing.shards if not shard.live)
        claims.append(Claim(None if is_open else number, path, shards, listing.defects))
        if is_open:
            opened[inode] = path.name
    # One that was completed may have left its name to the next, which was listed in its place.
    if opened and not opened.items() <= _scan_claims(retired).items():
        raise FileNotFoundError(errno.ENOENT, "a claim was completed", str(retired))
    return claims


def read_base(retired: Path) -> Base:
    """Read the base; an empty one when there is none.

    Raises BaseError when it is none of ours or damaged, and will stay so; OSError when it cannot
    be read now.
    """
    try:
        descriptor = open_shard(retired / BASE)
    except FileNotFoundError:
        return Base()
    except ShardError as error:
        if error.defect is Defect.IRREGULAR:
            raise BaseError(str(error)) from error
        raise OSError(f"cannot read the base: {error}") from error
    with os.fdopen(descriptor, "rb") as file:
        # One byte more than it may have is enough to see that it is too large.
        data = file.read(min(os.fstat(descriptor).st_size, BASE_LIMIT_BYTES) + 1)
    return parse_base(data)


def _find_claims(retired: Path) -> list[tuple[bool, int, Path, int]]:
    """Find the claims' directories: whether open, number, path and inode, in that order."""
    # Where a scan needs more than one call, a rename meanwhile may hide both names. That happens
    # to a claim once, so what one scan missed is in the other.
    names = {**_scan_claims(retired), **_scan_claims(retired)}
    return sorted(
        (match[1] == "open", int(match[2]), retired / name, inode)
        for inode, name in names.items()
        if (match := _CLAIM_NAME.fullmatch(name))
    )


def _scan_claims(retired: Path) -> dict[int, str]:
    """Scan for directories that are called like claims, by inode, which a rename leaves alone."""
    try:
        with os.scandir(retired) as entries:
            return {
                entry.inode(): entry.name
                for entry in entries
                if _CLAIM_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            }
    except FileNotFoundError:
        return {}


# -- Folding --------------------------------------------------------------------------------------


def lock_retired(directory: Path) -> int | None:
    """Make a shard directory's `.retired/` and lock it for as long as the descriptor is open.

    None when another metricsd has it. Raises OSError.
    """
    retired = directory / RETIRED
    create_private(retired)
    return lock_directory(retired)


def recover(retired: Path, base: Base) -> None:
    """Remove what a crash left: a half-written base, and claims that the base holds already.

    Raises OSError when something cannot be removed; that harms no total.
    """
    (retired / NEXT).unlink(missing_ok=True)
    stale = [
        Claim(number, path, list_shards(path))
        for is_open, number, path, _ in _find_claims(retired)
        if not is_open and number <= base.claim
    ]
    # The crash took with it what was known of their shards: look again.
    bad = dict(defect for claim in stale for defect in _find_defects(claim.shards))
    remove_claims(retired, stale, bad)


def write_next(retired: Path, base: Base) -> None:
    """Write the next base beside the present one, whole and on the disk.

    Raises OSError, and BaseError when it is too large; the present base stays as it is.
    """
    data = memoryview(render_base(base))
    path = retired / NEXT
    path.unlink(missing_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        # On a full disk, half a base would only take the room from the sessions.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def publish(retired: Path) -> None:
    """Let the next base take the place of the present one, in one step. Raises OSError."""
    (retired / NEXT).replace(retired / BASE)


def remove_claims(retired: Path, claims: Iterable[Claim], bad: Mapping[Path, Defect]) -> None:
    """Remove claims that the published base holds; the `bad` of their shards go to `bad/`.

    Each claim is tried. Raises the first OSError at the end, ValueError for an open claim.
    """
    failures = []
    for claim in claims:
        if claim.number is None:
            raise ValueError(f"{claim.path.name} is open and in no base")
        try:
            _remove_claim(retired, claim.path, bad)
        except OSError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _remove_claim(retired: Path, claim: Path, bad: Mapping[Path, Defect]) -> None:
    with contextlib.suppress(FileNotFoundError):  # gone, as wished
        with os.scandir(claim) as entries:
            # A directory holds who knows what: it is set aside, never emptied.
            found = {
                claim / entry.name: Defect.IRREGULAR
                if entry.is_dir(follow_symlinks=False)
                else bad.get(claim / entry.name)
                for entry in entries
            }
        for path, defect in found.items():
            if defect is not None:
                with contextlib.suppress(FileNotFoundError):
                    _set_aside(retired, path, f"{claim.name}.{defect}.{path.name}")
        for path, defect in found.items():
            if defect is None:
                path.unlink(missing_ok=True)
        claim.rmdir()


def _find_defects(shards: Iterable[Shard]) -> Iterator[tuple[Path, Defect]]:
    for shard in shards:
        try:
            _, defect = read_shard(shard.path)
        except FileNotFoundError:
            continue
        except ShardError as error:
            defect = error.defect
        if defect is not None:
            yield shard.path, defect


# -- What is bad ---------------------------------------------------------------------------------


def set_aside_base(retired: Path) -> Path:
    """Move an unreadable base to `bad/`, where a person finds it; returns where. Raises OSError."""
    return _set_aside(retired, retired / BASE, BASE)


def _set_aside(retired: Path, path: Path, label: str) -> Path:
    bad = retired / BAD
    create_private(bad)
    newest = max((number for number, _, _ in _list_bad(bad)), default=0)
    kept = path.rename(bad / f"{newest + 1}.{label}")
    for excess in _find_excess(_list_bad(bad)):
        excess.unlink(missing_ok=True)
    return kept


def _list_bad(bad: Path) -> list[tuple[int, Path, int | None]]:
    """List what was set aside: number, path, and size in bytes, None for a directory."""
    found = []
    with os.scandir(bad) as entries:
        for entry in entries:
            match = _BAD_NAME.fullmatch(entry.name)
            if match is not None:
                directory = entry.is_dir(follow_symlinks=False)
                size = None if directory else entry.stat(follow_symlinks=False).st_size
                found.append((int(match[1]), bad / entry.name, size))
    return found


def _find_excess(found: Iterable[tuple[int, Path, int | None]]) -> Iterator[Path]:
    """Find the oldest files beyond the bounds: the bases have their own, directories none."""
    bases, shards, total = 0, 0, 0
    for number, path, size in sorted(found, reverse=True):
        if size is None:
            continue
        if path.name == f"{number}.{BASE}":
            bases += 1
            if bases > BAD_BASES_KEPT:
                yield path
        elif shards == BAD_SHARDS_KEPT or total + size > BAD_SHARD_BYTES_KEPT:
            yield path
        else:
            shards += 1
            total += size
