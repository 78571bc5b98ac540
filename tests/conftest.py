"""Skips what the machine lacks, visibly; where nothing may be lacking, it fails instead."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stack import Stack

# How long an example takes says more of the machine, and of what else runs on it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Run from a script's `&`, every child would inherit that, and no Ctrl-C could be tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)

for _ignored in (signal.SIGHUP, signal.SIGQUIT):  # under nohup and `&`, likewise
    if signal.getsignal(_ignored) is signal.SIG_IGN:
        signal.signal(_ignored, signal.SIG_DFL)

INSTALL = {
    "needs_compiler": (("cc",), "apt-get install gcc libc6-dev"),
    "needs_prometheus": (("prometheus", "promtool"), "apt-get install prometheus"),
    "needs_chromium": (("chromium",), "apt-get install chromium fonts-dejavu-core"),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, (programs, line) in INSTALL.items():
        if item.get_closest_marker(marker) is None or all(map(shutil.which, programs)):
            continue
        message = f"needs {' and '.join(programs)}: {line}"
        if os.environ.get("PTSUP_TESTS_REQUIRE_ALL"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave nothing in the environment that would change what ptsup does."""
    for name in list(os.environ):
        if name.upper().startswith(("PEAKTRADE_", "PEAK_TRADE_", "PROMETHEUS_", "PTSUP_RUN")):
            monkeypatch.delenv(name)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    from stack import Stack

    made = Stack(tmp_path)
    try:
        yield made
    finally:
        made.close()
    assert "Traceback" not in made.read_log("supervisor")
