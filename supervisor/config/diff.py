"""What is otherwise in a file that was read anew: who came, who went, and which keys changed.

Pure. It names keys and never shows a value.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from supervisor.config.keys import SETTINGS, build_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from supervisor.config import Config, SessionSpec

Keys: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One that is there before and after; `restarts` when a key changed that it is spawned by."""

    spec: SessionSpec
    keys: tuple[str, ...]
    restarts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a reload has to do. The rest is not touched."""

    added: tuple[SessionSpec, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[Change, ...] = ()
    unchanged: int = 0
    settings: tuple[str, ...] = ()  # of the file as a whole

    def to_document(self) -> dict[str, Any]:
        """Build what is told of it: names and keys alone."""
        return {
            "added": [spec.name for spec in self.added],
            "removed": list(self.removed),
            "changed": [
                {"name": change.spec.name, "keys": list(change.keys), "restarts": change.restarts}
                for change in self.changed
            ],
            "unchanged": self.unchanged,
            "settings": list(self.settings),
        }


def diff_specs(
    old: Iterable[SessionSpec],
    new: Iterable[SessionSpec],
    amend: Callable[[SessionSpec, Keys], Keys] = lambda _, keys: keys,
) -> Difference:
    """Compare those that stood in the file with those that stand in it now.

    `amend` says which keys are otherwise for one of now, if the files do not tell it all.
    """
    former = {spec.name: spec for spec in old}
    new = tuple(new)
    found = [
        (spec, amend(spec, diff_keys(former[spec.name], spec)))
        for spec in new
        if spec.name in former
    ]
    changed = tuple(Change(spec, keys, _restarts(keys)) for spec, keys in found if keys)
    return Difference(
        added=tuple(spec for spec in new if spec.name not in former),
        removed=tuple(former.keys() - {spec.name for spec in new}),
        changed=changed,
        unchanged=len(found) - len(changed),
    )


def diff_keys(old: SessionSpec, new: SessionSpec) -> tuple[str, ...]:
    """Name the keys that differ, variables one by one."""
    keys = [key for key in ("role", "command", "cwd") if getattr(old, key) != getattr(new, key)]
    before, after = build_settings(old), build_settings(new)
    keys += [key for key in SETTINGS if before.get(key) != after.get(key)]
    names = sorted(old.env.keys() | new.env.keys())
    return (*keys, *(f"env.{name}" for name in names if old.env.get(name) != new.env.get(name)))


def build_stack_settings(config: Config) -> dict[str, Any]:
    """Build the settings of the stack as a whole, by their keys in a file, as JSON values."""
    return {
        "allow_labels": list(config.allow_labels),
        "audit_interval_seconds": config.audit_interval_seconds,
        "missing_shard_seconds": config.missing_shard_seconds,
        "stale_values_seconds": config.stale_values_seconds,
        "log": asdict(config.log),
        "gates.deny": list(config.denied),
    }


def diff_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Name those that differ, of what `build_stack_settings` built."""
    return tuple(key for key, value in new.items() if old.get(key) != value)


def _restarts(keys: Iterable[str]) -> bool:
    return not all(map(is_live, keys))


def is_live(key: str) -> bool:
    """Whether a change of it counts without a new incarnation."""
    return key in SETTINGS and SETTINGS[key].live


def render_difference(document: dict[str, Any]) -> list[str]:
    """Say in lines what was told of a difference; keys come from a file, so escape them."""
    lines = [f"added      {name}" for name in document["added"]]
    lines += [f"removed    {name}" for name in document["removed"]]
    for change in document["changed"]:
        how = "restarted" if change["restarts"] else "goes on"
        lines.append(f"changed    {change['name']}: {', '.join(change['keys'])} ({how})")
    if document["settings"]:
        lines.append(f"changed    {', '.join(document['settings'])}")
    return [*lines, f"unchanged  {document['unchanged']}"]
