"""Goes on with whom a supervisor that died has left, as if we had spawned them.

All are known before the first is told of: what one of them needs may end another.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from supervisor import kernel
from supervisor.adoptee import Adoptee
from supervisor.adoption import Former, build_events
from supervisor.children import Children, Origin
from supervisor.config import METRICSD
from supervisor.events import Event, Stop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from supervisor.deaths import Deaths
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")


def adopt(
    former: Iterable[Former], *, children: Children, deaths: Deaths, run_dir: RunDir
) -> Iterator[Event]:
    """Take them in; yields what the fleet has to hear, each to be taken before the next."""
    # A dead metricsd has nothing to be claimed or to be asked: it is started anew.
    adopted = [
        each for each in former if not each.at_rest and (each.lives or each.name != METRICSD)
    ]
    for each in adopted:
        name, incarnation = each.name, each.incarnation
        known = each.record.get("marks", {}), each.record.get("log_start", 0)
        children.origins[name] = Origin(incarnation, each.nonce, each.identity, *known)
        if each.pid is not None:
            children.present[name] = Adoptee(
                *(name, incarnation, each.pid, each.nonce, each.identity, deaths.census)
            )
    for each in adopted:
        yield from _adopt(each, children=children, deaths=deaths, run_dir=run_dir)


def _adopt(
    former: Former, *, children: Children, deaths: Deaths, run_dir: RunDir
) -> Iterator[Event]:
    name, remains = former.name, False
    adoptee = children.present.get(name)
    if isinstance(adoptee, Adoptee):
        deaths.watch(adoptee)
        if not former.lives:
            deaths.note_dead(name)
            remains = bool(adoptee.find_remains())
    else:
        kernel.SpawnLock(run_dir.states, former.nonce).remove()
    yield from build_events(former, remains=remains)
    if not former.lives:
        log.warning("%s ended while no supervisor lived", name)
        return
    log.info("adopted %s (pid %s)", name, former.pid)
    if former.refusal:
        log.error("%s is stopped: %s", name, former.refusal)
        yield Stop(name, reason=former.refusal)
