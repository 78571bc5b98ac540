"""A dead process's shards leave the flat directory for a claim, whole: docs/decisions/0005.

The supervisor's side alone, from one thread. It renames, never copies and never waits, and
takes no shard from a living process that holds it. A crash anywhere leaves an open claim,
which every scrape reads, and which `complete_claims` brings to its end.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import stat
from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from telemetry.processes import holds, is_alive
from telemetry.shards import (
    RETIRED,
    SHARD_PREFIXES,
    Defect,
    Shard,
    ShardError,
    list_shards,
    open_shard,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_OPEN: Final = re.compile(r"open-([1-9][0-9]{0,17})")
_COMPLETE: Final = re.compile(r"claim-([1-9][0-9]{0,17})")
# The base's first line names the last claim in it; what is longer is garbage.
_FIRST_LINE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Claimed:
    """What was done: the shards in complete claims now, and those their process got back.

    `number` is the last one given, to be handed to the next claim as `after`.
    """

    number: int
    shards: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()


def claim(directory: Path, pid: int, *, pinned: bool, after: int = 0) -> Claimed:
    """Move a dead pid's shards into a claim, and mark it dead there; none, and nothing is made.

    `pinned` says that a zombie of ours keeps the pid from being given away. Without it, a shard
    that a process of this pid holds after all goes back. What an earlier, failed claim of the
    pid left open is completed too. Raises OSError; then the rest is the next call's to do.
    """
    try:
        found = [name for name in build_shard_names(pid) if _is_regular(directory / name)]
        for opened in _find_opened(directory, pid):
            _drop_twins(directory, opened)
        if found:
            _move(directory, found)
        done = Claimed(after)
        for opened in _find_opened(directory, pid):
            done = _complete(directory, opened, pid if pinned else None, done)
    except OSError as error:
        raise _explain(error, f"cannot claim the shards of pid {pid}") from error
    return done


def complete_claims(directory: Path, after: int = 0) -> Claimed:
    """Bring every open claim to its end: the supervisor may have died, or failed, over it.

    One that cannot be completed holds up none of the others. Raises OSError, the first one.
    """
    done, failures = Claimed(after), []
    for opened in _list_opened(directory):
        try:
            _drop_twins(directory, opened)
            done = _complete(directory, opened, None, done)
        except OSError as error:
            failures.append(error)
    if failures:
        raise _explain(failures[0], "cannot complete a claim") from failures[0]
    return done


def find_unowned(directory: Path, living: Collection[int]) -> set[int]:
    """Find the pids of flat shards that nobody owns: no such process, or it holds none of them.

    `living` are pids to leave out. Raises OSError when the directory cannot be listed.
    """
    shards: defaultdict[int, list[Shard]] = defaultdict(list)
    for shard in list_shards(directory):
        if shard.pid not in living:
            shards[shard.pid].append(shard)
    return {
        pid
        for pid, found in shards.items()
        if not (is_alive(pid) and any(_is_held(shard.path, pid) for shard in found))
    }


def list_unfolded(directory: Path) -> tuple[Path, ...]:
    """List the shards of the dead that no base holds yet: in open claims and newer complete ones.

    Raises OSError when a directory is there but cannot be listed.
    """
    paths = list(_list_opened(directory))
    claims = _list_numbered(directory, _COMPLETE)
    folded = _read_folded(directory / RETIRED)
    paths += [path for number, path in claims if number > folded]
    return tuple(shard.path for path in paths for shard in list_shards(path))


def build_shard_names(pid: int) -> list[str]:
    """Name every shard that prometheus_client may write for a pid."""
    return [f"{prefix}_{pid}.db" for prefix in SHARD_PREFIXES]


# -- Beginning ------------------------------------------------------------------------------------


def _move(directory: Path, names: Collection[str]) -> None:
    """Open a claim and move these shards into it; one that has gone meanwhile is no matter."""
    opened = _open_claim(directory / RETIRED)
    try:
        for name in names:
            try:
                (directory / name).rename(opened / name)
            except FileNotFoundError:
                if (directory / name).exists():  # then it is the claim that has gone
                    raise
    except OSError:
        with contextlib.suppress(OSError):  # it stays when something is in it
            opened.rmdir()
        raise


def _open_claim(retired: Path) -> Path:
    try:
        retired.mkdir(mode=0o700)
    except FileExistsError:
        if not _is_directory(retired):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(retired)) from None
    for number in count(1):
        opened = retired / f"open-{number}"
        # Never one that is there: a rename into it could replace a shard.
        with contextlib.suppress(FileExistsError):
            opened.mkdir(mode=0o700)
            break
    return opened


# -- Ending ---------------------------------------------------------------------------------------


def _complete(directory: Path, opened: Path, pinned: int | None, done: Claimed) -> Claimed:
    """Give back what is held, mark the rest dead, and number the claim: now it may be folded.

    A held shard whose name is taken again leaves the claim open, to be looked at again later.
    """
    stays = False
    returned = []
    for shard in list_shards(opened):
        if shard.pid != pinned and is_alive(shard.pid) and _is_held(shard.path, shard.pid):
            if _give_back(shard.path, directory / shard.path.name):
                returned.append(shard.path.name)
            else:
                stays = True
    done = Claimed(done.number, done.shards, (*done.returned, *returned))
    if stays:
        return done
    for pid in {shard.pid for shard in list_shards(opened)}:
        _mark_dead(opened, pid)
    names = tuple(shard.path.name for shard in list_shards(opened))
    if _remove_if_empty(opened):
        return done
    number = _find_number(directory, done.number)
    opened.rename(directory / RETIRED / f"claim-{number}")
    return Claimed(number, (*done.shards, *names), done.returned)


def _give_back(path: Path, flat: Path) -> bool:
    """Put a shard back under its name, never over another one; False when the name is taken."""
    try:
        os.link(path, flat, follow_symlinks=False)
    except FileExistsError:
        return False
    path.unlink()
    return True


def _drop_twins(directory: Path, opened: Path) -> None:
    """Finish what was given back before a crash: linked, and not unlinked here any more.

    Before anything moves: of two names for one shard, two claims would make two shards.
    """
    for shard in list_shards(opened):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(shard.path.lstat(), (directory / shard.path.name).lstat()):
                shard.path.unlink()


def _mark_dead(opened: Path, pid: int) -> None:
    """Remove a dead pid's live gauges, with the library's own function as far as there is one."""
    try:
        # Imported here: only a death needs it, and nothing may need it at all.
        from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

        # The library looks for the files with glob, for which a bracket in a path is a pattern.
        path = glob.escape(str(opened))
        mark_process_dead(pid, path)  # type: ignore[no-untyped-call]  # the library's gap
    except OSError:
        raise
    except Exception:  # noqa: BLE001, S110 - missing or broken: what is left, we do ourselves
        pass
    for shard in list_shards(opened):
        if shard.live and shard.pid == pid:
            shard.path.unlink()


def _remove_if_empty(opened: Path) -> bool:
    try:
        opened.rmdir()
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        return False
    return True


def _find_number(directory: Path, after: int) -> int:
    """Find a number that no claim ever had: one above every claim, the base and `after`."""
    # In this order: a fold between the two takes a claim away only after its base is there.
    numbers = [number for number, _ in _list_numbered(directory, _COMPLETE, everything=True)]
    return max([*numbers, _read_folded(directory / RETIRED), after]) + 1


def _read_folded(retired: Path) -> int:
    """Read the last claim that the base holds; 0 without a base, or one that is garbage.

    Raises OSError when it is there and cannot be read now: a number given in ignorance of it
    might be one that it holds, and that claim would be removed as folded.
    """
    try:
        descriptor = open_shard(retired / "base")  # a regular file, or nothing
    except FileNotFoundError:
        return 0
    except ShardError as error:
        if error.defect is Defect.IRREGULAR or isinstance(error.__cause__, NotADirectoryError):
            return 0
        raise error.__cause__ or OSError(errno.EIO, str(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        line = file.readline(_FIRST_LINE_BYTES)
    try:
        document: Any = json.loads(line)
        number = document["claim"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return number if type(number) is int and number > 0 else 0


# -- Looking --------------------------------------------------------------------------------------


def _find_opened(directory: Path, pid: int) -> list[Path]:
    """Find the open claims that shards of this pid lie in."""
    names = build_shard_names(pid)
    return [
        opened
        for opened in _list_opened(directory)
        if any(_is_regular(opened / name) for name in names)
    ]


def _list_opened(directory: Path) -> list[Path]:
    return [path for _, path in _list_numbered(directory, _OPEN)]


def _list_numbered(
    directory: Path, pattern: re.Pattern[str], *, everything: bool = False
) -> list[tuple[int, Path]]:
    """List the claims of a pattern by number; with `everything`, whatever bears such a name."""
    retired = directory / RETIRED
    if not _is_directory(retired):
        return []
    with os.scandir(retired) as entries:
        return sorted(
            (int(found[1]), retired / entry.name)
            for entry in entries
            if (found := pattern.fullmatch(entry.name))
            and (everything or entry.is_dir(follow_symlinks=False))
        )


def _is_held(path: Path, pid: int) -> bool:
    """Whether the process of this pid holds a file; what it does not show counts as held."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return holds(pid, found.st_ino, found.st_dev) is not False


def _is_regular(path: Path) -> bool:
    return _has_mode(path, stat.S_ISREG)


def _is_directory(path: Path) -> bool:
    return _has_mode(path, stat.S_ISDIR)


def _has_mode(path: Path, check: Any) -> bool:
    try:
        return bool(check(path.lstat().st_mode))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _explain(error: OSError, problem: str) -> OSError:
    """Say what could not be done, where and why, in the one line that a person reads."""
    where = f"{error.filename}: " if error.filename else ""
    return OSError(error.errno, f"{problem}: {where}{error.strerror or error}")
