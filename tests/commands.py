"""The commands of our documents, to be run as they are written there."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from stack import ROOT

if TYPE_CHECKING:
    from stack import Stack


def read_document(name: str) -> str:
    """Read one of the project's documents."""
    return (ROOT / name).read_text(encoding="utf-8")


def find_blocks(text: str, language: str) -> list[str]:
    """Find what is fenced in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run_as_written(stack: Stack, block: str) -> str:
    """Run a block as a shell would, and hold it to its success."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=stack.cwd,
        env=stack.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, (block, done.stdout, done.stderr)
    return done.stdout
