"""Our children by name: who they are, and what each incarnation was spawned with.

Data alone. Whoever spawns or adopts puts them in, whoever reaps takes them out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor import kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.adoptee import Adoptee
    from supervisor.spawn import Child


@dataclass(slots=True)
class Origin:
    """What one incarnation was spawned with; `identity` is None before, and when it was not."""

    incarnation: int
    nonce: str
    identity: str | None = None
    # By what keys, to be told from others (config.marks); empty: not known.
    marks: Mapping[str, str] = field(default_factory=dict)
    log_start: int = 0  # where in its log its output begins


@dataclass(slots=True)
class Children:
    """Everybody who is not reaped yet, and the last origin of each, which lasts longer."""

    present: dict[str, Child | Adoptee] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)

    @property
    def pids(self) -> set[int]:
        """The pids of the leaders."""
        return {child.pid for child in self.present.values()}

    @property
    def nonces(self) -> set[str]:
        """The nonces they were spawned with."""
        return {self.find_nonce(name) for name in self.present} - {""}

    def find_nonce(self, name: str) -> str:
        """Give the nonce of the last incarnation; empty when there was none."""
        origin = self.origins.get(name)
        return origin.nonce if origin else ""

    def find_own(self) -> set[int]:
        """Find everybody we have to reap, orphans that became our children among them."""
        return self.pids | kernel.find_children()
