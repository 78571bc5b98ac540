"""What readings and a base add up to; the way in to all that needs numpy.

What adds up with what is decided anew only when the series have changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from telemetry.adding import add_up
from telemetry.families import OWN_MODES, build_base_groups, build_plan
from telemetry.readings import Readings

if TYPE_CHECKING:
    from telemetry.base import Base, Section
    from telemetry.groups import Group
    from telemetry.plan import Plan, Totals
    from telemetry.policy import LabelPolicy
    from telemetry.violations import Violations


class Sums:
    """The readings of one directory, its base, and their totals."""

    def __init__(
        self, *, descriptor_limit: int, policy: LabelPolicy | None, violations: Violations
    ) -> None:
        self.readings = Readings(descriptor_limit=descriptor_limit)
        self._policy = policy
        self._violations = violations
        self._base_groups: dict[Section, Group] = {}
        self._plan: Plan | None = None
        self._planned_at: tuple[object, ...] = ()
        self._planned_for: tuple[object, ...] = ()

    def use(self, base: Base) -> None:
        """Add up with this base from now on."""
        self._base_groups = build_base_groups(base, self._base_groups)

    def add_up(self) -> Totals:
        """Add up what was read last."""
        return add_up(self._find_plan())

    def _find_plan(self) -> Plan:
        """Find what adds up with what; decided anew only when the series have changed."""
        seen = (self.readings.version, *self._base_groups.values())
        if self._plan is None or seen != self._planned_at:
            groups = [group for group in self.readings.groups.values() if group.keys]
            first = {group: min(source.order for source in group.sources) for group in groups}
            ordered = [*self._base_groups.values(), *sorted(groups, key=first.__getitem__)]
            # A process's own gauges depend on who there is, all others on which groups there are.
            own = any(group.mode in OWN_MODES for group in ordered) or self._violations
            wanted = (seen if own else (), *ordered)
            if self._plan is None or wanted != self._planned_for:
                self._plan, self._planned_for = build_plan(ordered, self._policy), wanted
                self._violations.note(self._plan.violations)
            self._planned_at = seen
        return self._plan
