"""Draws the state diagram of docs/architecture.md from the lifecycle's own table.

Run `python tests/core/draw_lifecycle.py` after a change of TRANSITIONS.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor.lifecycle import TRANSITIONS, Transition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.events import ProcessEvent
    from supervisor.process import State

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
BEGIN: Final = "<!-- drawn by tests/core/draw_lifecycle.py: do not edit -->\n"
END: Final = "<!-- end of the drawing -->\n"


def render_diagram(transitions: Mapping[State, Mapping[type[ProcessEvent], Transition]]) -> str:
    """Render a mermaid state diagram; an event that leaves a state as it is draws no arrow."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for state, row in transitions.items():
        for event, transition in row.items():
            for reached in transition.to:
                arrows.setdefault((state, reached), []).append(event.__name__)
    lines = ["stateDiagram-v2", "    [*] --> stopped"]
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in arrows.items()]
    return "\n".join(["```mermaid", *lines, "```", ""])


def put_diagram(page: str, diagram: str) -> str:
    """Put a diagram between the page's two markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN!r} or no {END!r}")
    return before + begin + diagram + end + after


if __name__ == "__main__":
    PAGE.write_text(put_diagram(PAGE.read_text(encoding="utf-8"), render_diagram(TRANSITIONS)))
    sys.stdout.write(f"drawn into {PAGE}\n")
