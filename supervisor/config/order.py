"""Who waits for whom at the start: names that are there, and no circle of them.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


def check_order(
    after: Mapping[str, Collection[str]], *, known: Collection[str], where: Callable[[str], str]
) -> None:
    """Refuse an unknown name and a circle; `after` has for each name those it waits for."""
    for name, others in after.items():
        for other in others:
            if other not in known:
                raise UsageError(
                    f"{where(name)}: there is no {other!r}", f"there are: {_list(known)}"
                )
    done: set[str] = set()
    for name in after:
        if circle := _find_circle(after, name, done):
            raise UsageError(
                f"{where(circle[0])}: they wait for each other: {' → '.join(circle)}",
                "one of them has to start first",
            )


def _list(names: Collection[str]) -> str:
    shown = sorted(names)[:20]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def _find_circle(
    after: Mapping[str, Collection[str]], name: str, done: set[str]
) -> list[str] | None:
    """Walk from one name along whom it waits for, without recursion: chains may be long."""
    path: list[str] = []
    ahead = [(name, False)]
    while ahead:
        current, left = ahead.pop()
        if left:
            path.pop()
            done.add(current)
            continue
        if current in path:
            return [*path[path.index(current) :], current]
        if current in done:
            continue
        path.append(current)
        ahead.append((current, True))
        ahead += [(other, False) for other in after.get(current, ())]
    return None
