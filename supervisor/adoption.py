"""What a dead supervisor wrote down becomes the fleet of the next one.

Pure. A process goes on with its name, policy, incarnation and failures; whatever its record
does not say or says wrongly becomes the default, and is never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supervisor.config import METRICSD, METRICSD_POLICY, Role, SessionSpec
from supervisor.config.keys import build_spec as build_configured
from supervisor.config.keys import read_settings
from supervisor.events import Adopted, Exited
from supervisor.process import Ending, Process, State, Target
from telemetry.masking import MASK, mask_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from supervisor.events import Event

# In these nothing lived and nothing was to be; what is not up is listed all the same.
_AT_REST: Final = frozenset({State.STOPPED, State.EXITED, State.FATAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """One process of a dead supervisor: what was recorded, and who was found.

    `pid` is its leader's, living or dead (then without `identity`); None: there never was one,
    or it ended unseen.
    """

    record: Mapping[str, Any]
    pid: int | None = None
    identity: str | None = None
    words: tuple[str, ...] = ()  # its command as the system shows it
    refusal: str = ""  # by a gate: why it has to be stopped

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.record["name"])

    @property
    def nonce(self) -> str:
        """The nonce it was spawned with."""
        return str(self.record.get("nonce", ""))

    @property
    def incarnation(self) -> int:
        """Its present or last incarnation."""
        recorded: int = self.record.get("incarnation", 0)
        return max(0, recorded - self.awaits_spawn)

    @property
    def lives(self) -> bool:
        """Whether its leader lives."""
        return self.identity is not None

    @property
    def awaits_spawn(self) -> bool:
        """Whether its supervisor had decided to spawn it, and had not come to it."""
        starting = read_state(self.record) is State.STARTING
        return starting and "pid" not in self.record and not self.nonce

    @property
    def at_rest(self) -> bool:
        """Whether its supervisor had seen it end and was done with it, or never started it."""
        state = read_state(self.record)
        return state in _AT_REST or state is State.BACKOFF or self.awaits_spawn


def read_state(record: Mapping[str, Any]) -> State:
    """Read the recorded state; what is no state was lost on the way, like its process."""
    try:
        return State(record.get("state", ""))
    except ValueError:
        return State.STARTING


def build_process(former: Former, now: float, given: SessionSpec | None = None) -> Process:
    """Build the process as it was: at rest as recorded, any other to be Adopted.

    From here on it goes by the settings that were `given` anew, if any were.
    """
    record, state = former.record, read_state(former.record)
    target = Target.DOWN if record.get("target") == Target.DOWN else Target.UP
    spec = given or build_spec(former, {})[0]
    process = Process(
        name=former.name,
        policy=METRICSD_POLICY if former.name == METRICSD else spec.policy,
        role=_read_role(record),
        start_after=spec.start_after,
        target=target,
        incarnation=former.incarnation,
        failures=max(0, record.get("failures", 0)),
        failed_at=tuple(min(float(at), now) for at in record.get("failed_at", ())),
        returncode=record.get("returncode"),
    )
    if former.awaits_spawn:
        return process
    if former.at_rest:
        ended_at = now if former.incarnation else None
        return replace(
            process,
            state=state,
            # The wait of its backoff is over: a supervisor had to be started meanwhile.
            deadline=now if state is State.BACKOFF else None,
            started_at=ended_at,
            ended_at=ended_at,
        )
    return replace(
        process,
        ending=Ending.ASKED if record.get("ending") == Ending.ASKED else None,
        started_at=_read_moment(record, "started_at", now),
        ready_at=_read_moment(record, "ready_at", now),
        returncode=None,
    )


def build_events(former: Former, *, remains: bool) -> tuple[Event, ...]:
    """Tell the core what was found of a process that was not at rest."""
    adopted = Adopted(former.name, former.incarnation, former.pid)
    if former.pid is None or former.lives:
        return (adopted,)
    # Its supervisor may have seen how it ended, and died before it was done with it.
    returncode = former.record.get("returncode") if former.record.get("dead") else None
    return adopted, Exited(former.name, former.incarnation, returncode, remains)


def build_spec(former: Former, environ: Mapping[str, str]) -> tuple[SessionSpec, tuple[str, ...]]:
    """Build the spec it is restarted by, and name what of it was written down nowhere.

    The values of its variables are those of `environ`; a masked command is the one that the
    system shows, if that is the same but for the mask.
    """
    record = former.record
    variables: Sequence[str] = record.get("variables", ())
    command = tuple(record.get("command", ()))
    missing = [name for name in variables if name not in environ]
    if any(MASK in word for word in command):
        if former.words and mask_secrets(former.words) == list(command):
            command = former.words
        else:
            missing.append("a secret of its command")
    spec = build_configured(
        _read_role(record),
        read_settings(record.get("settings", {})),
        name=former.name,
        command=command,
        cwd=Path(record.get("cwd") or "/"),
        env={name: environ[name] for name in variables if name in environ},
    )
    return replace(spec, planned=True) if record.get("planned") else spec, tuple(missing)


def serves_otherwise(former: Iterable[Former], options: Sequence[str]) -> bool:
    """Whether the living metricsd was spawned with other options than these, by its own words."""
    words = next((each.words for each in former if each.name == METRICSD and each.lives), None)
    if words is None:
        return False
    spawned = [pair for pair in pairwise(words) if pair[0] in {"--look-seconds", "--allow-label"}]
    return [word for pair in spawned for word in pair] != list(options)


def _read_role(record: Mapping[str, Any]) -> Role:
    return Role.EXPORTER if record.get("role") == Role.EXPORTER else Role.SESSION


def _read_moment(record: Mapping[str, Any], key: str, now: float) -> float | None:
    """Read a monotonic moment; one of another boot may lie in our future."""
    moment = record.get(key)
    return None if moment is None else min(float(moment), now)
