"""A client that asks again and again while metricsd is killed again and again."""

from __future__ import annotations

import os
import random
from signal import SIGKILL
from typing import TYPE_CHECKING

import pytest

from chaos.events import EventLog, find_excuse
from chaos.plan import Aim, Blow
from chaos.scrapes import RawClient
from chaos.strikes import Target
from stack import SHADOW

if TYPE_CHECKING:
    from stack import Stack

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 20))
KILLS = 100 if "CHAOS_SECONDS" in os.environ else 10

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux holds processes so")


@pytest.mark.timeout(30 + 10 * KILLS)
def test_a_sequential_client_is_refused_nothing_while_metricsd_is_killed(stack: Stack) -> None:
    rng = random.Random(SEED)
    stack.start("-s", f"a={SHADOW} --loop", "-s", f"b={SHADOW} --loop --strategy momentum")
    log = EventLog(stack.cwd / "events.log")
    target, client = Target(stack, log), RawClient("client", stack.port)
    client.start()
    for number in range(1, KILLS + 1):
        target.strike(
            Blow(
                number=number,
                signal=SIGKILL,
                pause_seconds=0,
                aim=Aim.NOTHING,
                moment_seconds=rng.uniform(0, 1),
            )
        )
    target.find()
    client.finish()
    log.close()

    failed = [request for request in client.requests if not request.good]
    longest = max(request.ended - request.began for request in client.requests)
    print(
        f"\nseed {SEED}: {KILLS} kills, {len(client.requests)} requests one after another,"
        f" {len(failed)} failed, the longest took {longest:.2f} s"
    )
    for request in failed:
        print(f"{log.at(request.began)}..{log.at(request.ended).strip()}: {request.outcome}")
    assert len(target.deaths) == KILLS
    assert [one for one in failed if find_excuse(one, target.deaths) is None] == []
    assert client.requests[-1].good
