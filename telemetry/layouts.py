"""The layouts of shards: which series stand where in a file, parsed once and shared by all alike.

Shards with the same series have one group, whatever the order they are written in. What is kept
for shards to come is bounded. No file is read here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np

from telemetry.groups import Group, Layout
from telemetry.shards import HEADER_BYTES, WORD, Key, is_count, parse_key, render_shard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telemetry.groups import Name

    Words: TypeAlias = NDArray[np.int64]
    # The words of a file that are no values, and what they must be.
    Template: TypeAlias = tuple[NDArray[np.intp], Words]

# Layouts that a new shard is compared with before it is parsed, for each length in use.
_CANDIDATES: Final = 2
_CANDIDATE_LENGTHS: Final = 256
_KEYS_SLACK: Final = 10_000


class Layouts:
    """Every layout there is."""

    def __init__(self) -> None:
        self._layouts: WeakValueDictionary[Name, Layout] = WeakValueDictionary()
        self._groups: WeakValueDictionary[Name, Group] = WeakValueDictionary()
        self._candidates: OrderedDict[tuple[str, str, int], list[Layout]] = OrderedDict()
        self._templates: WeakKeyDictionary[Layout, Template] = WeakKeyDictionary()
        self._keys: dict[tuple[str, bytes], tuple[bytes, Key | None]] = {}

    def find(self, kind: str, mode: str, raw: tuple[bytes, ...]) -> Layout:
        """Find the layout of these keys in this order, or make it."""
        layout = self._layouts.get((kind, mode, raw))
        if layout is None:
            layout = self._build(kind, mode, raw)
            self._layouts[kind, mode, layout.raw] = layout
            self._add_candidate(layout)
        return layout

    def extend(self, layout: Layout, fresh: tuple[bytes, ...]) -> Layout:
        """Find the layout that has these keys after those of another."""
        extended = layout.grown.get(fresh)
        if extended is None:
            group = layout.group
            extended = layout.grown[fresh] = self.find(group.kind, group.mode, layout.raw + fresh)
        return extended

    # -- Likeness ---------------------------------------------------------------------------------

    def find_candidates(self, kind: str, mode: str, length: int) -> Sequence[Layout]:
        """Find the layouts that a new shard of this length may have, the newest one first."""
        return tuple(self._candidates.get((kind, mode, length), ()))

    def match(self, layout: Layout, files: Words) -> NDArray[np.bool_]:
        """Tell which files, a row each and as long as the layout, have its keys in its places."""
        template = self._templates.get(layout)
        if template is None:
            template = self._templates[layout] = _build_template(layout.raw)
        fixed, expected = template
        alike: NDArray[np.bool_] = (files[:, fixed] == expected).all(axis=1)
        return alike

    def _add_candidate(self, layout: Layout) -> None:
        length = (layout.group.kind, layout.group.mode, layout.end)
        candidates = self._candidates.setdefault(length, [])
        self._candidates.move_to_end(length)
        for former in candidates[_CANDIDATES - 1 :]:
            self._templates.pop(former, None)  # it is made again when needed
        candidates[:] = [layout, *candidates[: _CANDIDATES - 1]]
        if len(self._candidates) > _CANDIDATE_LENGTHS:
            self._candidates.popitem(last=False)

    # -- Building ---------------------------------------------------------------------------------

    def _build(self, kind: str, mode: str, raw: tuple[bytes, ...]) -> Layout:
        parsed = [self._parse_key(kind, key) for key in raw]
        raw = tuple(key for key, _ in parsed)
        words = _find_value_words(raw)
        columns: dict[bytes, tuple[Key, int]] = {}
        for (key, meaning), word in zip(parsed, words.tolist(), strict=True):
            if meaning is not None:
                columns[key] = meaning, word
        # What only counts up comes first, then by key: the same for every order in the files.
        ordered = sorted(columns, key=lambda key: (not is_count(kind, columns[key][0]), key))
        name = (kind, mode, tuple(ordered))
        group = self._groups.get(name)
        if group is None:
            keys = tuple(columns[key][0] for key in ordered)
            counts = sum(is_count(kind, key) for key in keys)
            group = self._groups[name] = Group(kind, mode, tuple(ordered), keys, counts)
        index = np.array([columns[key][1] for key in ordered], dtype=np.int32)
        end = HEADER_BYTES if not raw else WORD * (int(words[-1]) + 2)
        return Layout(group, raw, index, end, whole=len(ordered) == len(set(raw)))

    def _parse_key(self, kind: str, raw: bytes) -> tuple[bytes, Key | None]:
        """Parse a key once, and keep one copy of it."""
        found = self._keys.get((kind, raw))
        if found is None:
            known = sum(len(group.raw) for group in self._groups.values())
            if len(self._keys) > 4 * known + _KEYS_SLACK:
                self._keys.clear()
            found = self._keys[kind, raw] = raw, parse_key(raw, kind)
        return found


def _build_template(raw: Sequence[bytes]) -> Template:
    template = np.frombuffer(render_shard((key, 0.0, 0.0) for key in raw), dtype=np.int64)
    where = np.ones(len(template), dtype=bool)
    values = _find_value_words(raw)
    where[values] = where[values + 1] = False
    fixed = np.flatnonzero(where)
    return fixed, template[fixed]


def _find_value_words(raw: Sequence[bytes]) -> NDArray[np.intp]:
    """Find the word that each key's value lies at."""
    lengths = np.array([len(key) for key in raw], dtype=np.intp)
    padded = 4 + lengths + 8 - (lengths + 4) % 8
    starts = HEADER_BYTES + np.cumsum(padded + 16) - (padded + 16)
    words: NDArray[np.intp] = (starts + padded) // WORD
    return words
