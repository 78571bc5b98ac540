"""The built wheel, in an empty environment, driven from another directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from stack import EXAMPLE, ROOT, Stack, build_environment, drop_zeros, read_ledgers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# One wheel for all, in one worker.
pytestmark = pytest.mark.xdist_group("wheel")

PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(ROOT)]
    subprocess.run([sys.executable, *PIP, *build], check=True)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture
def stack(wheel: Path, tmp_path: Path) -> Iterator[Stack]:
    environment = tmp_path / "environment"
    # Without a pip of its own, and compiled is what is used: all else takes longer than the test.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    bin_ = environment / "bin"
    install = ["--python", str(bin_ / "python"), "install", "--no-compile", str(wheel)]
    subprocess.run([sys.executable, *PIP, *install], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    made = Stack(elsewhere, bin=bin_, env={**build_environment(), "PATH": path})
    try:
        yield made
    finally:
        made.close()


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"supervisor", "telemetry"}
    assert len(tops) == 3


def test_it_does_the_main_job_from_another_directory(stack: Stack) -> None:
    ledger = stack.cwd / "ledger"
    stack.start("-s", f"a=python {EXAMPLE} --speed 400 --ledger {ledger}")
    assert stack.wait_for_state("a", "exited", timeout=30)["exit"] == "0"
    assert drop_zeros(stack.counters()) == read_ledgers(ledger)
    assert "a" in stack.run("status").stdout
    stack.run("stop")
    stack.assert_nothing_left()
