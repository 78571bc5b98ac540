from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from bench.peers import SCALE


def describe_machine() -> str:
    """Name the machine and the versions that the figures belong to."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(": ")[2] if names else model
    packages = ", ".join(f"{name} {version(name)}" for name in ("prometheus_client", "numpy"))
    return (
        f"Machine: {os.cpu_count()} x {model}, {platform.system()} {platform.release()},"
        f" CPython {platform.python_version()}; {packages}."
    )


@pytest.fixture(scope="session", autouse=True)
def _machine() -> None:
    print(f"\n\n{describe_machine()}")
    if SCALE != 1:
        print(f"BENCH_SCALE={SCALE}: smaller sizes, not the figures to show.")
