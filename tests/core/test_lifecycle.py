"""Every state x event of `decide` against a literal table; whole lives as scripts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any, Final, get_args

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from core.draw_lifecycle import PAGE, put_diagram, render_diagram
from core.plays import Kernel, parse_event, render_action
from supervisor import lifecycle
from supervisor.config import METRICSD, METRICSD_POLICY, Policy, RestartWhen
from supervisor.events import (
    Action,
    ChildEvent,
    Claim,
    ProcessEvent,
    Reap,
    SignalGroup,
    Spawn,
    Spawned,
)
from supervisor.lifecycle import TRANSITIONS, decide, find_start_timeout_seconds
from supervisor.process import ENDED, Ending, Process, State, Target
from supervisor.restarts import find_backoff_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# -- The table --------------------------------------------------------------------------------

NOW: Final = 1000.0

NO: Final = Policy(
    restart=RestartWhen.NO,
    stop_timeout_seconds=5,
    stable_seconds=10,
    backoff_seconds=0.5,
    failure_limit=3,
    failure_window_seconds=30,
)
ON_FAILURE: Final = replace(NO, restart=RestartWhen.ON_FAILURE)
ALWAYS: Final = replace(NO, restart=RestartWhen.ALWAYS)
FOR_EVER: Final = replace(
    ALWAYS, failure_limit=None, start_timeout_seconds=4, start_timeout_limit_seconds=4
)

# Three failures within the window, and one that lies before it.
THREE: Final = (NOW - 31, NOW - 29, NOW - 20, NOW - 10)
FAILED: Final = {"-": (), "one": (NOW,), "four": (*THREE[1:], NOW)}

# Processes as they may stand at NOW, each in its third incarnation after two failures.
_NONE: Final = Process(name="paper", policy=NO, target=Target.UP, incarnation=3, failures=2)
_ENDED: Final = replace(_NONE, started_at=980, ready_at=980, ended_at=990)
_SPAWNING: Final = replace(_NONE, state=State.STARTING)
_STARTING: Final = replace(_SPAWNING, policy=FOR_EVER, pid=7, started_at=NOW, deadline=NOW + 4)
_RUNNING: Final = replace(_NONE, state=State.RUNNING, pid=7, started_at=995, ready_at=995)
_STOPPING: Final = replace(
    _RUNNING,
    state=State.STOPPING,
    target=Target.DOWN,
    ending=Ending.ASKED,
    deadline=NOW + 2,
)
_UNSPAWNED: Final = replace(_STOPPING, pid=None, started_at=None, ready_at=None)
_LEAVING: Final = replace(
    _STOPPING,
    target=Target.UP,
    ending=Ending.BY_ITSELF,
    dead=True,
    remains=True,
    claimed=True,
    ended_at=999,
    returncode=1,
)
_KILLING: Final = replace(_STOPPING, state=State.KILLING, deadline=NOW + 0.5)
_UNHEALTHY: Final = replace(
    _KILLING, policy=FOR_EVER, target=Target.UP, ending=Ending.UNHEALTHY, reason="hung"
)
_UNHEALTHY_DEAD: Final = replace(
    _UNHEALTHY, dead=True, remains=True, claimed=True, ended_at=999, returncode=-9
)
_UNCLAIMED: Final = replace(_STOPPING, dead=True, remains=True, ended_at=999, returncode=-15)
_CLAIMING: Final = replace(_UNCLAIMED, remains=False, deadline=NOW + 0.1)
_UNREADY: Final = replace(_UNHEALTHY, pid=None, started_at=None, ready_at=None)

CASES: Final = {
    "stopped": replace(_ENDED, target=Target.DOWN, returncode=-15),
    "waiting": Process(name="paper", policy=NO, target=Target.UP),
    "former": replace(_NONE, started_at=980, ready_at=985),
    "former:always": replace(_NONE, policy=ALWAYS, started_at=980, ready_at=985),
    "former:slow": replace(_NONE, policy=ALWAYS, started_at=980, ready_at=995),
    "former:last-try": replace(_NONE, policy=ALWAYS, started_at=980, ready_at=995, failed_at=THREE),
    "former:for-ever": replace(_NONE, policy=FOR_EVER, started_at=980, ready_at=985),
    "former:for-ever:unready": replace(_NONE, policy=FOR_EVER, started_at=980),
    "former:for-ever:metricsd": replace(
        _NONE, name=METRICSD, policy=FOR_EVER, started_at=980, ready_at=985
    ),
    "former:restarting": replace(_NONE, ending=Ending.ASKED, started_at=980, ready_at=985),
    "former:stopping": replace(
        _NONE, target=Target.DOWN, ending=Ending.ASKED, started_at=980, ready_at=985
    ),
    "exited": replace(_ENDED, state=State.EXITED, returncode=1),
    "fatal": replace(_ENDED, state=State.FATAL, returncode=1, reason="broken"),
    "backoff": replace(_ENDED, state=State.BACKOFF, policy=ALWAYS, deadline=NOW + 3),
    "spawning": _SPAWNING,
    "spawning:on-failure": replace(_SPAWNING, policy=ON_FAILURE),
    "spawning:last-try": replace(_SPAWNING, policy=ON_FAILURE, failed_at=THREE),
    "spawning:for-ever": replace(_SPAWNING, policy=FOR_EVER, deadline=NOW + 4),
    "starting": _STARTING,
    "running": _RUNNING,
    "stopping": _STOPPING,
    "stopping:unspawned": _UNSPAWNED,
    "stopping:dead": replace(
        _STOPPING, dead=True, remains=True, claimed=True, ended_at=999, returncode=-15
    ),
    "restarting": replace(_STOPPING, target=Target.UP),
    "restarting:unspawned": replace(_UNSPAWNED, target=Target.UP),
    "restarting:unspawned:on-failure": replace(_UNSPAWNED, target=Target.UP, policy=ON_FAILURE),
    "restarting:dead": replace(
        _STOPPING, target=Target.UP, dead=True, remains=True, claimed=True, ended_at=999
    ),
    "leaving": _LEAVING,
    "leaving:down": replace(_LEAVING, target=Target.DOWN, policy=ALWAYS),
    "leaving:on-failure": replace(_LEAVING, policy=ON_FAILURE),
    "leaving:always": replace(_LEAVING, policy=ALWAYS),
    "leaving:last-try": replace(_LEAVING, policy=ALWAYS, failed_at=THREE),
    "leaving:for-ever": replace(_LEAVING, policy=FOR_EVER, failures=40),
    "leaving:stable": replace(_LEAVING, policy=ALWAYS, ready_at=989),
    "killing": _KILLING,
    "killing:unspawned": replace(_UNSPAWNED, state=State.KILLING, deadline=NOW + 0.5),
    "killing:dead": replace(
        _KILLING, dead=True, remains=True, claimed=True, ended_at=999, returncode=-9
    ),
    "killing:up": replace(_KILLING, target=Target.UP),
    "killing:up:dead": replace(
        _KILLING, target=Target.UP, dead=True, remains=True, claimed=True, ended_at=999
    ),
    "unhealthy": _UNHEALTHY,
    "unhealthy:dead": _UNHEALTHY_DEAD,
    "unhealthy:dead:no": replace(_UNHEALTHY_DEAD, policy=NO),
    "unhealthy:dead:last-try": replace(_UNHEALTHY_DEAD, policy=ALWAYS, failed_at=THREE),
    "unclaimed": _UNCLAIMED,
    "unclaimed:killed": replace(_UNCLAIMED, state=State.KILLING, deadline=NOW + 0.5),
    "claiming": _CLAIMING,
    "claiming:last-try": replace(_CLAIMING, claim_failures=9),
    "claiming:killed": replace(_CLAIMING, state=State.KILLING),
    "claiming:killed:last-try": replace(_CLAIMING, state=State.KILLING, claim_failures=9),
    "unready": replace(_UNREADY, policy=NO),
    "unready:for-ever": _UNREADY,
}

EVENTS: Final = (
    *("start", "stop", "stop(1)", "restart", "kill", "deadline"),
    *("adopted", "lost"),
    *("spawned", "spawn-failed", "spawn-refused", "ready", "unhealthy"),
    *(
        "exited(0)",
        "left(0)",
        "claimed",
        "claim-failed",
        "gone",
        "reaped(0)",
        "reaped(1)",
        "reaped(unknown)",
    ),
)

# Each row holds for all of its cases and events; `*` is any ending. Deadlines count from NOW.
# What `also` does not name is as before; a pair without a row changes nothing and asks for
# nothing. `fresh` is a new incarnation; `rc=its` is the returncode that the event brings.
TABLE: Final = """
stopped                start,restart          starting up   -      SPAWN      fresh failures=0 failed=-
waiting                start,restart          starting up   -      SPAWN      fresh
waiting                stop*,kill             stopped  down -      -
stopped                adopted                stopping down +5     TERM       pid=8 ending=asked
stopped                lost                   exited   down -      -          ended=now rc=-
waiting                adopted                running  up   -      -          pid=8 started=now ready=now
waiting                lost                   exited   up   -      -          started=now ended=now
former,former:[!f]*    start,restart          starting up   -      SPAWN      fresh failures=0 failed=-
former:for-ever*       start,restart          starting up   +4     SPAWN      fresh failures=0 failed=-
former*                stop*,kill             stopped  down -      -
former,former:[al]*    adopted                running  up   -      -          pid=8
former:slow            adopted                running  up   -      -          pid=8
former:for-ever        adopted                running  up   -      -          pid=8
former:for-ever:*      adopted                starting up   +4     -          pid=8 ready=-
former:restarting      adopted                stopping up   +5     TERM       pid=8
former:stopping        adopted                stopping down +5     TERM       pid=8
former                 lost                   exited   up   -      -          ended=now
former:always          lost                   starting up   -      SPAWN      fresh failures=0 failed=one
former:slow            lost                   backoff  up   +1.316 -          ended=now failures=3 failed=one
former:last-try        lost                   fatal    up   -      -          ended=now failed=four reason=failed_4_times_within_30_s
former:for-ever:unready lost                  backoff  up   +1.316 -          ended=now failures=3
former:for-ever,former:*:metricsd lost        starting up   +4     SPAWN      fresh failures=0 failed=-
former:restarting      lost                   starting up   -      SPAWN      fresh
former:stopping        lost                   stopped  down -      -          ending=- ended=now
exited                 start,restart          starting up   -      SPAWN      fresh failures=0 failed=-
exited                 stop*,kill             exited   down -      -
fatal                  start,restart          starting up   -      SPAWN      fresh failures=0 failed=-
fatal                  stop*,kill             fatal    down -      -
backoff                start,restart          starting up   -      SPAWN      fresh failures=0 failed=-
backoff                deadline               starting up   -      SPAWN      fresh
backoff                stop*,kill             stopped  down -      -

spawning*              stop                   stopping down +5     -          ending=asked
spawning*              stop(1)                stopping down +1     -          ending=asked
spawning*              restart                stopping up   +5     -          ending=asked failures=0 failed=-
spawning*              kill                   killing  down +1     -          ending=asked
spawning:for-ever      deadline               killing  up   +1     -          ending=unhealthy late-starts=1 reason=not_ready_4_s_after_its_start
spawning:for-ever      spawned                starting up   +4     -          pid=8 started=now
spawning:for-ever      spawn-failed           backoff  up   +1.316 -          ended=now failures=3 reason=busy
spawning:for-ever      spawn-refused          backoff  up   +1.316 -          ended=now failures=3 reason=missing
spawning               spawned                running  up   -      -          pid=8 started=now ready=now
spawning               spawn-failed           fatal    up   -      -          ended=now reason=busy
spawning               spawn-refused          fatal    up   -      -          ended=now reason=missing
spawning:on-failure    spawned                running  up   -      -          pid=8 started=now ready=now
spawning:on-failure    spawn-failed           backoff  up   +1.316 -          ended=now failures=3 failed=one reason=busy
spawning:on-failure    spawn-refused          fatal    up   -      -          ended=now reason=missing
spawning:last-try      spawned                running  up   -      -          pid=8 started=now ready=now
spawning:last-try      spawn-failed           fatal    up   -      -          ended=now failed=four reason=failed_4_times_within_30_s:_busy
spawning:last-try      spawn-refused          fatal    up   -      -          ended=now reason=missing

starting,running       stop                   stopping down +5     TERM       ending=asked
starting,running       stop(1)                stopping down +1     TERM       ending=asked
starting,running       restart                stopping up   +5     TERM       ending=asked failures=0 failed=-
starting,running       kill                   killing  down +1     KILL       ending=asked
starting,running       exited(0)              stopping up   +0.1   CLAIM       dead=yes ended=now rc=its ending=by_itself
starting,running       left(0)                stopping up   +5     CLAIM,TERM  dead=yes ended=now rc=its ending=by_itself
starting               ready                  running  up   -      -          ready=now
starting               deadline               killing  up   +1     KILL       ending=unhealthy late-starts=1 reason=not_ready_4_s_after_its_start
running                unhealthy              killing  up   +1     KILL       ending=unhealthy reason=hung

stopping*              start,restart          stopping up   +2     -          failures=0 failed=-
stopping*              stop(1)                stopping down +1     -
stopping,stopping:dead kill,deadline          killing  down +1     KILL
stopping               exited(0)              stopping down +0.1   CLAIM       dead=yes ended=now rc=its
stopping               left(0)                stopping down +2     CLAIM      dead=yes ended=now rc=its
stopping:dead          gone                   stopping down -      REAP       remains=no
stopping:dead          reaped*                stopped  down -      -          pid=- dead=no ending=- rc=its
stopping:unspawned     kill,deadline          killing  down +1     -
stopping:unspawned     spawned                stopping down +2     TERM       pid=8 started=now
stopping:unspawned     spawn-failed           stopped  down -      -          ending=- ended=now reason=busy
stopping:unspawned     spawn-refused          stopped  down -      -          ending=- ended=now reason=missing

restarting*            start,restart          stopping up   +2     -          failures=0 failed=-
restarting*            stop                   stopping down +2     -
restarting*            stop(1)                stopping down +1     -
restarting             kill                   killing  down +1     KILL
restarting             deadline               killing  up   +1     KILL
restarting             exited(0)              stopping up   +0.1   CLAIM       dead=yes ended=now rc=its
restarting             left(0)                stopping up   +2     CLAIM      dead=yes ended=now rc=its
restarting:dead        kill                   killing  down +1     KILL
restarting:dead        deadline               killing  up   +1     KILL
restarting:dead        gone                   stopping up   -      REAP       remains=no
restarting:dead        reaped*                starting up   -      SPAWN      fresh
restarting:unspawned*  kill                   killing  down +1     -
restarting:unspawned*  deadline               killing  up   +1     -
restarting:unspawned*  spawned                stopping up   +2     TERM       pid=8 started=now
restarting:unspawned   spawn-failed           fatal    up   -      -          ending=- ended=now reason=busy
restarting:unspawned*  spawn-refused          fatal    up   -      -          ending=- ended=now reason=missing
restarting:un*:on-*    spawn-failed           backoff  up   +1.316 -          ending=- ended=now failures=3 failed=one reason=busy

leaving*               start,restart          stopping up   +2     -          failures=0 failed=- ending=asked
leaving,leaving:[!d]*  stop                   stopping down +2     -
leaving*               stop(1)                stopping down +1     -
leaving*               kill                   killing  down +1     KILL
leaving,leaving:[!d]*  deadline               killing  up   +1     KILL
leaving,leaving:[!d]*  gone                   stopping up   -      REAP       remains=no
leaving                reaped*                exited   up   -      -          pid=- dead=no ending=- rc=its
leaving:down           deadline               killing  down +1     KILL
leaving:down           gone                   stopping down -      REAP       remains=no
leaving:down           reaped*                exited   down -      -          pid=- dead=no ending=- rc=its
leaving:on-failure     reaped(0),reaped(u*) exited   up   -      -          pid=- dead=no ending=- rc=its
leaving:on-failure     reaped(1)              backoff  up   +1.316 -          pid=- dead=no ending=- rc=its failures=3 failed=one
leaving:always         reaped*                backoff  up   +1.316 -          pid=- dead=no ending=- rc=its failures=3 failed=one
leaving:last-try       reaped(0)              fatal    up   -      -          pid=- dead=no ending=- rc=its failed=four reason=ended_4_times_within_30_s
leaving:last-try       reaped(1),reaped(u*)   fatal    up   -      -          pid=- dead=no ending=- rc=its failed=four reason=failed_4_times_within_30_s
leaving:for-ever       reaped*                backoff  up   +19.738 -         pid=- dead=no ending=- rc=its failures=41
leaving:stable         reaped*                starting up   -      SPAWN      fresh failures=0 failed=one

killing*               start,restart          killing  up   +0.5   -          failures=0 failed=-
killing,killing:dead   kill,deadline          killing  down +1     KILL
killing                exited(0)              killing  down +0.1   CLAIM       dead=yes ended=now rc=its
killing                left(0)                killing  down +0.5   CLAIM      dead=yes ended=now rc=its
killing:dead           gone                   killing  down -      REAP       remains=no
killing:dead           reaped*                stopped  down -      -          pid=- dead=no ending=- rc=its
killing:unspawned      kill,deadline          killing  down +1     -
killing:unspawned      spawned                killing  down +0.5   KILL       pid=8 started=now
killing:unspawned      spawn-failed           stopped  down -      -          ending=- ended=now reason=busy
killing:unspawned      spawn-refused          stopped  down -      -          ending=- ended=now reason=missing
killing:up*            stop*                  killing  down +0.5   -
killing:up*            kill                   killing  down +1     KILL
killing:up*            deadline               killing  up   +1     KILL
killing:up             exited(0)              killing  up   +0.1   CLAIM       dead=yes ended=now rc=its
killing:up             left(0)                killing  up   +0.5   CLAIM      dead=yes ended=now rc=its
killing:up:dead        gone                   killing  up   -      REAP       remains=no
killing:up:dead        reaped*                starting up   -      SPAWN      fresh

unhealthy*,unready*    start,restart          killing  up   +0.5   -          failures=0 failed=- ending=asked
unhealthy*,unready*    stop*                  killing  down +0.5   -
unhealthy*             kill                   killing  down +1     KILL
unhealthy*             deadline               killing  up   +1     KILL
unhealthy              exited(0)              killing  up   +0.1   CLAIM       dead=yes ended=now rc=its
unhealthy              left(0)                killing  up   +0.5   CLAIM      dead=yes ended=now rc=its
unhealthy:dead*        gone                   killing  up   -      REAP       remains=no
unhealthy:dead         reaped*                backoff  up   +1.316 -          pid=- dead=no ending=- rc=its failures=3
unhealthy:dead:no      reaped*                exited   up   -      -          pid=- dead=no ending=- rc=its
unhealthy:dead:last-*  reaped(0)              fatal    up   -      -          pid=- dead=no ending=- rc=its failed=four reason=ended_4_times_within_30_s:_hung
unhealthy:dead:last-*  reaped(1),reaped(u*)   fatal    up   -      -          pid=- dead=no ending=- rc=its failed=four reason=failed_4_times_within_30_s:_hung
unready*               kill                   killing  down +1     -
unready*               deadline               killing  up   +1     -
unready*               spawned                killing  up   +0.5   KILL       pid=8 started=now
unready                spawn-failed           fatal    up   -      -          ending=- ended=now reason=busy
unready                spawn-refused          fatal    up   -      -          ending=- ended=now reason=missing
unready:for-ever       spawn-failed           backoff  up   +1.316 -          ending=- ended=now failures=3 reason=busy
unready:for-ever       spawn-refused          backoff  up   +1.316 -          ending=- ended=now failures=3 reason=missing

unclaimed              start,restart          stopping up   +2     -          failures=0 failed=-
unclaimed              stop(1)                stopping down +1     -
unclaimed              kill,deadline          killing  down +1     KILL
unclaimed              claimed                stopping down +2     -          claimed=yes
unclaimed              claim-failed           stopping down +2     -          claim-failures=1
unclaimed              gone                   stopping down +0.1   CLAIM      remains=no
unclaimed:killed       start,restart          killing  up   +0.5   -          failures=0 failed=-
unclaimed:killed       kill,deadline          killing  down +1     KILL
unclaimed:killed       claimed                killing  down +0.5   -          claimed=yes
unclaimed:killed       claim-failed           killing  down +0.5   -          claim-failures=1
unclaimed:killed       gone                   killing  down +0.1   CLAIM      remains=no

claiming,claiming:l*   start,restart          stopping up   +0.1   -          failures=0 failed=-
claiming*              kill                   killing  down +1     -
claiming,claiming:l*   deadline               stopping down +0.1   CLAIM
claiming,claiming:l*   claimed                stopping down -      REAP       claimed=yes
claiming               claim-failed           stopping down +0.1   -          claim-failures=1
claiming:last-try      claim-failed           stopping down -      REAP       claim-failures=10
claiming:killed*       start,restart          killing  up   +0.1   -          failures=0 failed=-
claiming:killed*       deadline               killing  down +0.1   CLAIM
claiming:killed*       claimed                killing  down -      REAP       claimed=yes
claiming:killed        claim-failed           killing  down +0.1   -          claim-failures=1
claiming:killed:last-* claim-failed           killing  down -      REAP       claim-failures=10
"""  # noqa: E501 - a table is read by its columns

_REAPED: Final = {"dead": False, "remains": False, "claimed": False, "claim_failures": 0}
_FRESH: Final[dict[str, Any]] = {
    **_REAPED,
    "pid": None,
    "ending": None,
    "started_at": None,
    "ready_at": None,
    "ended_at": None,
    "returncode": None,
    "reason": "",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    cases: tuple[str, ...]
    events: tuple[str, ...]
    state: State
    target: Target
    deadline: float | None
    actions: tuple[str, ...]
    also: tuple[str, ...]

    def build_process(self, before: Process, event: Any) -> Process:
        changes: dict[str, Any] = {}
        for word in self.also:
            changes |= parse_change(word, before, event)
        return replace(
            before, state=self.state, target=self.target, deadline=self.deadline, **changes
        )

    def build_actions(self, before: Process) -> tuple[Action, ...]:
        name, incarnation = before.name, before.incarnation
        actions: dict[str, Action] = {
            "SPAWN": Spawn(name, incarnation + 1),
            "TERM": SignalGroup(name, incarnation, SIGTERM),
            "KILL": SignalGroup(name, incarnation, SIGKILL),
            "CLAIM": Claim(name, incarnation, before.pid or 0),
            "REAP": Reap(name, incarnation),
        }
        return tuple(actions[word] for word in self.actions)


def parse_row(line: str) -> Row:
    cases, events, state, target, deadline, actions, *also = line.split()
    return Row(
        tuple(cases.split(",")),
        tuple(events.split(",")),
        State(state),
        Target(target),
        None if deadline == "-" else NOW + float(deadline),
        () if actions == "-" else tuple(actions.split(",")),
        tuple(also),
    )


def parse_change(  # noqa: C901 - one case for each word
    word: str, before: Process, event: Any
) -> dict[str, Any]:
    key, _, text = word.partition("=")
    match key:
        case "fresh":
            return {"incarnation": before.incarnation + 1, **_FRESH}
        case "rc":
            return {"returncode": None if text == "-" else event.returncode}
        case "started" | "ready" | "ended":
            return {f"{key}_at": None if text == "-" else NOW}
        case "pid":
            return {"pid": None if text == "-" else int(text)}
        case "dead":
            return {"dead": True, "remains": event.remains} if text == "yes" else _REAPED
        case "remains" | "claimed":
            return {key: text == "yes"}
        case "ending":
            return {"ending": None if text == "-" else Ending(text.replace("_", " "))}
        case "failed":
            return {"failed_at": FAILED[text]}
        case "failures" | "claim-failures" | "late-starts":
            return {key.replace("-", "_"): int(text)}
        case "reason":
            return {"reason": text.replace("_", " ")}
        case _:
            raise AssertionError(f"not a change: {word!r}")


def find_rows() -> dict[tuple[str, str], Row]:
    """Give each case and event its row; none has two."""
    found: dict[tuple[str, str], Row] = {}
    for row in map(parse_row, filter(None, TABLE.splitlines())):
        pairs = list(product(find_named(CASES, row.cases), find_named(EVENTS, row.events)))
        assert pairs, f"nothing is named by {row}"
        assert not found.keys() & pairs, f"{row} holds for what another row holds for"
        found |= dict.fromkeys(pairs, row)
    return found


def find_named(names: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def can_happen(process: Process, event: ProcessEvent) -> bool:
    """Whether the shell may say so: nobody dies twice, or before the spawn was answered."""
    match type(event).__name__:
        case "Spawned" | "SpawnFailed":
            return process.pid is None
        case "Ready" | "Unhealthy" | "Exited":
            return process.pid is not None and not process.dead
        case "Claimed" | "ClaimFailed":
            return process.dead and not process.claimed
        case "Reaped":
            return process.claimed
        case "DeadlinePassed":
            return process.deadline is not None
        case _:
            return True


def find_checks() -> Iterator[tuple[str, Process, ProcessEvent, Row | None]]:
    """Every case with every event; what cannot happen is left out where it would do something."""
    rows = find_rows()
    for (case, process), word in product(CASES.items(), EVENTS):
        event = parse_event(word, process.name, process.incarnation)
        if can_happen(process, event) or type(event) not in TRANSITIONS[process.state]:
            yield case, process, event, rows.get((case, word))


CHECKS: Final = tuple(find_checks())


def find_mismatch(process: Process, event: ProcessEvent, row: Row | None) -> str:
    """Compare what `decide` says with the table; empty where they agree."""
    after, actions = decide(process, event, NOW)
    if after.deadline is not None:
        after = replace(after, deadline=round(after.deadline, 3))
    wanted = row.build_process(process, event) if row else process
    wanted_actions = row.build_actions(process) if row else ()
    if (after, actions) == (wanted, wanted_actions):
        return ""
    return f"{event} at {process}\n  gives  {after} {actions}\n  not    {wanted} {wanted_actions}"


@pytest.mark.parametrize("case", CASES)
def test_each_event_does_what_the_table_says(case: str) -> None:
    checks = [(process, event, row) for name, process, event, row in CHECKS if name == case]
    assert [found for check in checks if (found := find_mismatch(*check))] == []


def test_the_table_covers_every_state_and_event() -> None:
    pairs = {(process.state, type(event)) for _, process, event, _ in CHECKS}
    assert len(pairs) == 120 == len(State) * len(get_args(ProcessEvent))


def test_each_row_of_the_table_is_used() -> None:
    assert set(find_rows().values()) == {row for *_, row in CHECKS if row}


@pytest.mark.parametrize("state", State)
def test_the_table_fails_without_any_one_transition(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [(process, event, row) for _, process, event, row in CHECKS]
    for kind in TRANSITIONS[state]:
        row = {other: t for other, t in TRANSITIONS[state].items() if other is not kind}
        monkeypatch.setattr(lifecycle, "TRANSITIONS", {**TRANSITIONS, state: row})
        concerned = [c for c in checks if c[0].state is state and type(c[1]) is kind]
        assert any(find_mismatch(*check) for check in concerned), f"{state} x {kind.__name__}"


def test_each_declared_state_is_reached_and_no_other() -> None:
    reached: dict[tuple[State, type[ProcessEvent]], set[State]] = {}
    for _, process, event, _ in CHECKS:
        after, _ = decide(process, event, NOW)
        reached.setdefault((process.state, type(event)), set()).add(after.state)
    for (state, kind), states in reached.items():
        transition = TRANSITIONS[state].get(kind)
        declared = set(transition.to) if transition else set()
        assert states == (declared or {state}), f"{state} x {kind.__name__}"


@pytest.mark.parametrize("difference", [-1, 1])
def test_news_of_another_incarnation_is_ignored(difference: int) -> None:
    told = set()
    for process in CASES.values():
        for word in EVENTS:
            event = parse_event(word, process.name, process.incarnation + difference)
            if isinstance(event, get_args(ChildEvent)):
                told.add(type(event))
                assert decide(process, event, NOW) == (process, ())
    assert told == set(get_args(ChildEvent))


def test_the_page_shows_the_diagram_of_the_transitions() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == put_diagram(page, render_diagram(TRANSITIONS)), (
        "docs/architecture.md is behind TRANSITIONS: run `python tests/core/draw_lifecycle.py`"
    )


# -- Lives, as scripts --------------------------------------------------------------------------


class Life:
    """One process over a model of the kernel; the clock is an argument and nothing waits."""

    def __init__(self, policy: Policy) -> None:
        self.process = Process(name="paper", policy=policy)
        self.kernel = Kernel()
        self.now = 0.0

    def tell(self, word: str) -> list[str]:
        """Let an event happen; give back what was asked for, up to the answer to a reap."""
        name = self.process.name
        match word.partition("(")[0]:
            case "spawned" | "spawn-failed" | "spawn-refused":
                return self.take(self.kernel.answer(word, name))
            case "exited" | "left" | "gone":
                return self.take(self.kernel.end(word, name))
            case _:
                return self.take(parse_event(word, name, self.process.incarnation))

    def take(self, event: ProcessEvent) -> list[str]:
        words = []
        self.process, actions = decide(self.process, event, self.now)
        for action in actions:
            words.append(render_action(action))
            answer = self.kernel.perform(action)
            words += self.take(answer) if answer else []
        self.kernel.check(self.process)
        return words


def play(policy: Policy, script: str) -> Process:
    """Play lines of `SECONDS EVENT STATE ACTION...`; `due` is the time of the deadline."""
    life, played = Life(policy), []
    lines = [line.split() for line in script.strip().splitlines()]
    for at, word, *_ in lines:
        due = life.process.deadline
        life.now = (due or 0.0) if at == "due" else float(at)
        assert word != "deadline" or life.now == due, f"no deadline at {at}"
        assert due is None or life.now <= due, f"the deadline at {due} was missed at {at}"
        actions = life.tell(word)
        played.append([at, word, str(life.process.state), *actions])
    assert played == lines
    return life.process


def test_a_plain_life() -> None:
    process = play(
        NO,
        """
        0     start      starting  SPAWN
        0.25  spawned    running
        60    stop       stopping  TERM
        61    exited(0)  stopped   CLAIM REAP
        """,
    )
    assert (process.started_at, process.ended_at, process.restarts) == (0.25, 61, 0)
    assert (process.target, process.returncode, process.failed) == (Target.DOWN, 0, False)


def test_a_stop_is_term_then_kill_until_it_is_dead() -> None:
    process = play(
        NO,
        """
        0     start       starting  SPAWN
        0     spawned     running
        10    stop        stopping  TERM
        15    deadline    killing   KILL
        16    deadline    killing   KILL
        17    deadline    killing   KILL
        17.5  exited(-9)  stopped   CLAIM REAP
        """,
    )
    assert process.returncode == -9


def test_a_stop_waits_for_the_whole_group() -> None:
    play(
        NO,
        """
        0     start      starting  SPAWN
        0     spawned    running
        10    stop       stopping  TERM
        11    left(0)    stopping  CLAIM
        15    deadline   killing   KILL
        15.1  gone       stopped   REAP
        """,
    )


def test_a_claim_that_fails_is_tried_again_and_then_given_up() -> None:
    for failures in range(12):
        life = Life(NO)
        life.tell("start")
        life.tell("spawned")
        life.kernel.full = True
        told = life.tell("exited(0)")
        for _ in range(failures):
            life.now = life.process.deadline or life.now
            told += life.tell("deadline") if life.process.deadline else []
        assert told == ["CLAIM"] * min(failures + 1, 10) + ["REAP"] * (failures >= 9)
        if failures < 9:
            life.kernel.full = False
            assert life.process.state is State.STOPPING
            assert life.tell("deadline") == ["CLAIM", "REAP"]
        assert life.process.state is State.EXITED
        assert life.now <= 1.0


def test_what_is_left_of_a_group_is_killed_in_time_though_no_claim_can_be_made() -> None:
    life = Life(NO)
    for word in ("start", "spawned", "stop"):
        life.tell(word)
    life.kernel.full = True
    assert life.tell("left(0)") == ["CLAIM"]
    assert life.process.deadline == 5
    life.now = 5
    assert life.tell("deadline") == ["KILL"]
    life.kernel.full = False
    assert life.tell("gone") == ["CLAIM", "REAP"]
    assert life.process.state is State.STOPPED


def test_a_kill_of_a_zombie_that_waits_for_its_claim_signals_nobody() -> None:
    life = Life(ALWAYS)
    for word in ("start", "spawned"):
        life.tell(word)
    life.kernel.full = True
    life.tell("exited(1)")
    assert life.tell("kill") == []
    life.kernel.full = False
    life.now = life.process.deadline or 0.0
    assert life.tell("deadline") == ["CLAIM", "REAP"]
    assert life.process.state is State.EXITED


def test_a_second_stop_may_only_hurry() -> None:
    play(
        NO,
        """
        0   start      starting  SPAWN
        0   spawned    running
        10  stop       stopping  TERM
        11  stop(60)   stopping
        12  stop(1)    stopping
        13  deadline   killing   KILL
        13  exited(-9) stopped   CLAIM REAP
        """,
    )


def test_a_kill_does_not_ask_first() -> None:
    play(
        NO,
        """
        0   start      starting  SPAWN
        0   spawned    running
        10  kill       killing   KILL
        10  exited(-9) stopped   CLAIM REAP
        """,
    )


def test_what_a_session_leaves_of_its_group_is_ended_before_its_pid_is_given_back() -> None:
    process = play(
        NO,
        """
        0  start    starting  SPAWN
        0  spawned  running
        5  left(3)  stopping  CLAIM TERM
        7  gone     exited    REAP
        """,
    )
    assert (process.returncode, process.ended_at, process.failed) == (3, 5, True)


def test_what_a_session_leaves_of_its_group_is_killed_in_the_end() -> None:
    play(
        NO,
        """
        0   start     starting  SPAWN
        0   spawned   running
        5   left(0)   stopping  CLAIM TERM
        10  deadline  killing   KILL
        11  deadline  killing   KILL
        11  gone      exited    REAP
        """,
    )


def test_a_stop_before_the_spawn_is_answered_is_made_up_for() -> None:
    play(
        NO,
        """
        0  start      starting  SPAWN
        1  stop       stopping
        2  spawned    stopping  TERM
        3  exited(0)  stopped   CLAIM REAP
        """,
    )
    play(
        NO,
        """
        0  start       starting  SPAWN
        1  stop        stopping
        6  deadline    killing
        7  spawned     killing   KILL
        7  exited(-9)  stopped   CLAIM REAP
        """,
    )
    process = play(
        ALWAYS,
        """
        0  start         starting  SPAWN
        1  stop          stopping
        2  spawn-failed  stopped
        """,
    )
    assert process.reason == "busy"


def test_a_restart_is_a_stop_with_target_up() -> None:
    process = play(
        NO,
        """
        0   start       starting  SPAWN
        0   spawned     running
        10  restart     stopping  TERM
        15  deadline    killing   KILL
        15  exited(-9)  starting  CLAIM REAP SPAWN
        15  spawned     running
        """,
    )
    assert (process.incarnation, process.restarts, process.returncode) == (2, 1, None)


def test_a_start_asked_while_it_stops_brings_it_up_again() -> None:
    play(
        NO,
        """
        0   start      starting  SPAWN
        0   spawned    running
        10  stop       stopping  TERM
        11  start      stopping
        12  exited(0)  starting  CLAIM REAP SPAWN
        """,
    )


def test_the_last_wish_counts() -> None:
    play(
        NO,
        """
        0   start      starting  SPAWN
        0   spawned    running
        10  restart    stopping  TERM
        11  stop       stopping
        12  start      stopping
        13  stop       stopping
        14  exited(0)  stopped   CLAIM REAP
        """,
    )


def test_a_stop_while_it_backs_off_ends_the_waiting() -> None:
    process = play(
        ALWAYS,
        """
        0  start      starting  SPAWN
        0  spawned    running
        1  exited(1)  backoff   CLAIM REAP
        1  stop       stopped
        """,
    )
    assert (process.target, process.deadline, process.failed) == (Target.DOWN, None, False)


def test_an_exit_during_the_start_is_a_failure() -> None:
    process = play(
        FOR_EVER,
        """
        0    start      starting  SPAWN
        0    spawned    starting
        0.5  exited(1)  backoff   CLAIM REAP
        due  deadline   starting  SPAWN
        """,
    )
    assert process.failures == 1


def test_a_spawn_that_failed_for_now_is_tried_again() -> None:
    process = play(
        ON_FAILURE,
        """
        0    start         starting  SPAWN
        0    spawn-failed  backoff
        due  deadline      starting  SPAWN
        9    spawned       running
        """,
    )
    assert process.incarnation == 2


def test_a_spawn_that_can_never_work_is_fatal() -> None:
    process = play(
        ALWAYS,
        """
        0  start          starting  SPAWN
        0  spawn-refused  fatal
        """,
    )
    assert (process.reason, process.failed) == ("missing", True)


def test_a_fatal_one_starts_when_asked() -> None:
    process = play(
        ALWAYS,
        """
        0  start          starting  SPAWN
        0  spawn-refused  fatal
        5  start          starting  SPAWN
        5  spawned        running
        """,
    )
    assert process.reason == ""


def test_on_failure_restarts_a_failure_alone() -> None:
    failed = """
        0  start      starting  SPAWN
        0  spawned    running
        1  exited(1)  backoff   CLAIM REAP
        """
    play(ON_FAILURE, failed)
    play(ON_FAILURE, failed.replace("exited(1)", "exited(-9)"))
    play(ON_FAILURE, failed.replace("exited(1)  backoff", "exited(0)  exited "))
    play(
        replace(ON_FAILURE, success_exit_codes=frozenset({0, 1})),
        failed.replace("backoff", "exited"),
    )


def test_a_status_that_cannot_be_known_restarts_nothing_on_failure() -> None:
    process = play(
        ON_FAILURE,
        """
        0   start            starting  SPAWN
        0   spawned          running
        60  exited(unknown)  exited    CLAIM REAP
        """,
    )
    assert (process.returncode, process.failed) == (None, True)


def test_always_restarts_a_success_too() -> None:
    play(
        ALWAYS,
        """
        0    start      starting  SPAWN
        0    spawned    running
        1    exited(0)  backoff   CLAIM REAP
        due  deadline   starting  SPAWN
        """,
    )


def test_no_policy_restarts_nothing() -> None:
    play(
        NO,
        """
        0   start      starting  SPAWN
        0   spawned    running
        60  exited(1)  exited    CLAIM REAP
        """,
    )


def test_the_first_restart_after_a_stable_period_comes_at_once() -> None:
    process = play(
        ON_FAILURE,
        """
        0    start      starting  SPAWN
        0    spawned    running
        1    exited(1)  backoff   CLAIM REAP
        due  deadline   starting  SPAWN
        2    spawned    running
        12   exited(1)  starting  CLAIM REAP SPAWN
        12   spawned    running
        """,
    )
    assert process.failures == 0


def test_six_failures_within_a_minute_are_fatal_and_say_why() -> None:
    life = Life(Policy(restart=RestartWhen.ALWAYS))
    life.tell("start")
    for _ in range(5):
        life.tell("spawned")
        life.now += 5
        life.tell("exited(1)")
        assert life.process.state is State.BACKOFF
        life.now = life.process.deadline or 0.0
        life.tell("deadline")
    life.tell("spawned")
    life.tell("exited(1)")
    assert life.process.state is State.FATAL
    assert life.process.reason == "failed 6 times within 60 s"


def test_stable_lives_that_end_too_often_are_fatal_too() -> None:
    life = Life(replace(Policy(restart=RestartWhen.ALWAYS), stable_seconds=1))
    life.tell("start")
    for _ in range(5):
        life.tell("spawned")
        life.now += 11
        life.tell("exited(0)")
        assert life.process.state is State.STARTING
    life.tell("spawned")
    life.now += 2
    life.tell("exited(0)")
    assert life.process.state is State.FATAL
    assert life.process.reason == "ended 6 times within 60 s"


def test_failures_before_the_window_are_forgotten() -> None:
    life = Life(Policy(restart=RestartWhen.ON_FAILURE))
    life.tell("start")
    for _ in range(50):
        life.tell("spawned")
        life.now += 13
        life.tell("exited(1)")
        assert life.process.state is State.STARTING
        assert len(life.process.failed_at) <= 5


def test_a_start_by_hand_forgets_the_failures() -> None:
    life = Life(Policy(restart=RestartWhen.ALWAYS))
    life.tell("start")
    while not life.process.failed:
        life.tell("spawned")
        life.tell("exited(1)")
        life.now = life.process.deadline or life.now
        life.tell("deadline")
    assert life.process.failed
    life.tell("start")
    life.tell("spawned")
    life.tell("exited(1)")
    assert not life.process.failed
    assert life.process.failed_at == (life.now,)


def test_an_exit_code_that_counts_as_success_restarts_nothing() -> None:
    policy = Policy(restart=RestartWhen.ON_FAILURE, success_exit_codes=frozenset({0, 3}))
    process = play(
        policy,
        """
        0  start      starting  SPAWN
        0  spawned    running
        1  exited(3)  exited    CLAIM REAP
        """,
    )
    assert not process.failed


def test_metricsd_is_never_given_up() -> None:
    life = Life(METRICSD_POLICY)
    life.tell("start")
    delays = []
    for number in range(100):
        if number % 3:
            life.tell("spawned")
            life.tell("exited(1)")
        else:
            life.tell("spawn-refused")
        assert life.process.state is State.BACKOFF
        delays.append((life.process.deadline or 0.0) - life.now)
        life.now = life.process.deadline or 0.0
        life.tell("deadline")
    assert max(delays) <= 1.0
    assert delays[0] <= 0.1


def test_a_start_that_takes_too_long_is_killed_and_tried_again() -> None:
    process = play(
        FOR_EVER,
        """
        0    start       starting  SPAWN
        1    spawned     starting
        4    deadline    killing   KILL
        4    exited(-9)  backoff   CLAIM REAP
        due  deadline    starting  SPAWN
        5    spawned     starting
        6    ready       running
        """,
    )
    assert process.started_at == 5
    assert process.ready_at == 6


def test_one_that_was_never_ready_was_not_stable_however_long_it_lived() -> None:
    assert METRICSD_POLICY.start_timeout_seconds is not None
    assert METRICSD_POLICY.start_timeout_seconds > METRICSD_POLICY.stable_seconds
    process = play(
        METRICSD_POLICY,
        """
        0  start       starting  SPAWN
        0  spawned     starting
        3  deadline    killing   KILL
        3  exited(-9)  backoff   CLAIM REAP
        """,
    )
    assert (process.failures, process.reason) == (1, "not ready 3 s after its start")


@pytest.mark.parametrize(("late", "seconds"), [(0, 3), (1, 6), (3, 24), (4, 30), (5000, 30)])
def test_a_start_that_was_late_is_given_longer_the_next_time(late: int, seconds: int) -> None:
    process = Process(name="metricsd", policy=METRICSD_POLICY, failures=9, late_starts=late)
    assert find_start_timeout_seconds(process) == seconds


def test_late_starts_count_up_to_the_next_one_that_is_ready() -> None:
    late = play(
        METRICSD_POLICY,
        """
        0  start       starting  SPAWN
        0  spawned     starting
        3  deadline    killing   KILL
        3  exited(-9)  backoff   CLAIM REAP
        """,
    )
    assert late.late_starts == 1
    in_time = play(
        METRICSD_POLICY,
        """
        0    start       starting  SPAWN
        0    spawned     starting
        3    deadline    killing   KILL
        3    exited(-9)  backoff   CLAIM REAP
        due  deadline    starting  SPAWN
        4    spawned     starting
        5    ready       running
        """,
    )
    assert in_time.late_starts == 0


def test_who_is_killed_after_a_second_of_service_is_back_at_once() -> None:
    process = play(
        METRICSD_POLICY,
        """
        0  start       starting  SPAWN
        0  spawned     starting
        1  ready       running
        2  exited(-9)  starting  CLAIM REAP SPAWN
        """,
    )
    assert process.failures == 0


def test_an_unhealthy_one_is_killed_and_restarted() -> None:
    process = play(
        METRICSD_POLICY,
        """
        0     start       starting  SPAWN
        0     spawned     starting
        1     ready       running
        1.5   unhealthy   killing   KILL
        1.5   exited(-9)  backoff   CLAIM REAP
        due   deadline    starting  SPAWN
        2     spawned     starting
        2     ready       running
        600   unhealthy   killing   KILL
        600   left(-9)    killing   CLAIM
        600   gone        starting  REAP SPAWN
        """,
    )
    assert process.failures == 0


def test_what_was_stopped_while_it_hung_stays_down() -> None:
    play(
        METRICSD_POLICY,
        """
        0  start       starting  SPAWN
        0  spawned     starting
        1  ready       running
        5  unhealthy   killing   KILL
        5  stop        killing
        5  exited(-9)  exited    CLAIM REAP
        """,
    )


# -- Backoff ------------------------------------------------------------------------------------


def test_the_backoff_doubles_up_to_its_bound() -> None:
    for name in ("a", "b", "paper"):
        process = Process(name=name, policy=Policy(), incarnation=2)
        for failures in (*range(1, 12), 10_000):
            whole = min(0.5 * 2 ** (min(failures, 20) - 1), 30.0)
            assert whole / 2 <= find_backoff_seconds(replace(process, failures=failures)) <= whole


def test_sessions_that_fail_together_come_back_apart() -> None:
    names = [f"session-{number}" for number in range(100)]
    process = Process(name="", policy=Policy(), incarnation=1, failures=1)
    delays = [find_backoff_seconds(replace(process, name=name)) for name in names]
    assert len(set(delays)) == 100
    assert max(delays) - min(delays) > 0.2
    assert delays == [find_backoff_seconds(replace(process, name=name)) for name in names]
    assert len({find_backoff_seconds(replace(process, incarnation=n)) for n in range(9)}) == 9


# -- Any life at all ------------------------------------------------------------------------------

WISHES: Final = ("start", "stop", "stop(0)", "stop(30)", "restart", "kill")
ANSWERS: Final = ("spawned", "spawned", "spawned", "spawn-failed", "spawn-refused")
DEATHS: Final = ("exited(0)", "exited(1)", "exited(unknown)", "left(0)", "left(-15)")
OTHERS: Final = (
    *("ready", "unhealthy", "gone", "stale", "full"),
    *(f"tick({s})" for s in (0.2, 1, 6, 20)),
)
ANYTHING: Final = WISHES + ANSWERS + DEATHS + OTHERS
POLICIES: Final = (NO, ON_FAILURE, ALWAYS, FOR_EVER)


def live(life: Life, word: str) -> None:
    """Let something happen if it can at all; the model of the kernel complains if it must."""
    child = life.kernel.children.get("paper")
    lives = child is not None and not child.dead
    if word.startswith("tick"):
        life.now += float(word[5:-1])
        if life.process.deadline is not None and life.process.deadline <= life.now:
            life.tell("deadline")
    elif word == "full":
        life.kernel.full = not life.kernel.full
    elif word == "stale":
        assert life.take(Spawned("paper", life.process.incarnation - 1, 1)) == []
        assert life.take(Spawned("paper", life.process.incarnation + 1, 1)) == []
    elif (
        word in WISHES
        or (word in ANSWERS and life.kernel.spawning)
        or (word in {*DEATHS, "ready", "unhealthy"} and lives)
        or (word == "gone" and child is not None and child.dead and child.remains)
    ):
        life.tell(word)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(POLICIES), st.binary(min_size=40, max_size=40))
def test_no_life_breaks_the_laws_of_the_kernel_and_every_one_can_be_ended(
    policy: Policy, script: bytes
) -> None:
    life = Life(policy)
    for byte in script:
        word = ANYTHING[byte % len(ANYTHING)]
        note(word)
        live(life, word)
    life.tell("kill")
    if life.kernel.spawning:
        life.tell("spawned")
    while child := life.kernel.children.get("paper"):
        if child.dead and not child.remains:
            live(life, "tick(1)")  # only its claim is waited for, and not for ever
            continue
        assert child.killed
        life.tell("gone" if child.dead else "left(-9)")
    assert life.process.state in ENDED
    assert life.process.target is Target.DOWN
