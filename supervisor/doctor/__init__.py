"""What the doctor says: one finding a line, and what to do about it.

Data only. `doctor.find` judges, `doctor.facts` is what it judges by, the rest looks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was checked: good or not, in words, and what mends it."""

    id: str
    good: bool
    message: str
    steps: tuple[str, ...] = ()


def passes(diagnosis: str, message: str) -> Diagnosis:
    """Build what is said of a thing that is well."""
    return Diagnosis(diagnosis, True, message)  # noqa: FBT003 - its very name says it


def fails(diagnosis: str, message: str, steps: tuple[str, ...]) -> Diagnosis:
    """Build what is said of a thing that is not."""
    return Diagnosis(diagnosis, False, message, steps)  # noqa: FBT003 - its very name says it


def render_diagnoses(diagnoses: list[Diagnosis]) -> list[str]:
    """Render `PASS|id|message` and `FAIL|id|message`, each failure with its `NEXT|…` lines.

    The same step is said once: what mends one thing may mend another.
    """
    lines: list[str] = []
    for found in diagnoses:
        lines.append(f"{'PASS' if found.good else 'FAIL'}|{found.id}|{_flatten(found.message)}")
        lines += [
            line
            for step in found.steps
            if not found.good and (line := f"NEXT|{_flatten(step)}") not in lines
        ]
    return lines


def _flatten(text: str) -> str:
    """Keep a line one line with three fields, whatever is in it."""
    return " ".join(text.replace("|", "/").split())
