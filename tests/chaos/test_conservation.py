"""Whatever is killed, no increment is lost and none is counted twice.

`make test` runs a short form, `make chaos SEED=1 SECONDS=120` the long one.
"""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from chaos.plan import SHORT, find_scale
from chaos.storm import run_storm

if TYPE_CHECKING:
    from stack import Stack

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 20))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "0"))

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux holds processes so")


@pytest.mark.timeout(150 + 4 * SECONDS)
def test_nothing_is_lost_and_nothing_counted_twice_whatever_is_killed(stack: Stack) -> None:
    found = bool(shutil.which("prometheus"))
    if not found and os.environ.get("PTSUP_TESTS_REQUIRE_ALL"):
        pytest.fail("needs prometheus: apt-get install prometheus", pytrace=False)
    failures = run_storm(stack, SEED, find_scale(SECONDS) if SECONDS else SHORT, prometheus=found)
    if failures:
        pytest.fail("\n".join([f"chaos with seed {SEED}:", *failures]), pytrace=False)
