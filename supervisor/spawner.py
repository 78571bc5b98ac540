"""How children come into the world: the intents are written, and each lock held, before a spawn.

Whatever goes wrong becomes a SpawnFailed; nothing here decides what follows from it.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import supervisor
from supervisor import kernel, spawn
from supervisor.admission import check_complete, check_gates_again
from supervisor.children import Children, Origin
from supervisor.config import METRICSD, RUN_DIR_VARIABLE, Role
from supervisor.config.marks import build_marks
from supervisor.environ import build_metricsd_environment
from supervisor.errors import GateError, UsageError
from supervisor.events import Spawned, SpawnFailed
from supervisor.spawn import Child, SpawnError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from supervisor.admission import Admitted
    from supervisor.config import Config
    from supervisor.journal import Journal
    from supervisor.lifecycle import Process
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")

PACKAGE_ROOT: Final = Path(supervisor.__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An incarnation that has all it needs but its lock."""

    process: Process
    origin: Origin
    environment: Mapping[str, str]
    output: int  # its log


@dataclass(slots=True, kw_only=True)
class Spawner:
    """Spawns metricsd, which inherits the listening socket, and sessions as they were admitted."""

    config: Config
    run_dir: RunDir
    listener: socket.socket
    members: Mapping[str, Admitted]
    children: Children
    journal: Journal
    descriptors: int | None  # what a session may have open, where we may more

    def spawn(self, processes: Sequence[Process]) -> list[Spawned | SpawnFailed]:
        """Spawn these incarnations, which the fleet has asked for.

        What can be prepared for all of them is, first: nothing of it is cold for the next then.
        """
        told: list[Spawned | SpawnFailed] = []
        ready: list[_Prepared] = []
        for process in processes:
            prepared = self._prepare(process)
            if isinstance(prepared, _Prepared):
                ready.append(prepared)
            else:
                told.append(prepared)
        try:
            for each in ready:
                self.children.origins[each.process.name] = each.origin
                self.journal.note(each.process.name)
            # The intents, before there is anything to lose.
            written = not ready or self.journal.write()
            told += [self._spawn(each, written=written) for each in ready]
        finally:
            for each in ready:
                os.close(each.output)
        for event in told:
            if isinstance(event, Spawned):
                self._identify(event)
        return told

    def _prepare(self, process: Process) -> _Prepared | SpawnFailed:
        name, incarnation, nonce = process.name, process.incarnation, secrets.token_hex(8)
        try:
            if name == METRICSD:
                environment = build_metricsd_environment(
                    os.environ, package_root=PACKAGE_ROOT, nonce=nonce
                )
                marks: dict[str, str] = {}
            else:
                member = self.members[name]
                environment = self._build_environment(member, nonce)
                marks = build_marks(member.spec, nonce)
        except (GateError, UsageError) as error:
            return SpawnFailed(name, incarnation, error.message, final=True)
        try:
            output = self.run_dir.open_log(name)
        except OSError as error:
            reason = f"cannot open {self.run_dir.log(name)}: {error.strerror}"
            return SpawnFailed(name, incarnation, reason, final=False)
        origin = Origin(incarnation, nonce, marks=marks, log_start=os.fstat(output).st_size)
        return _Prepared(process, origin, environment, output)

    def _build_environment(self, member: Admitted, nonce: str) -> dict[str, str]:
        check_complete(member)
        check_gates_again(member, self.config.denied)
        environment = member.build_environment(self.config.multiproc_dir, nonce)
        if member.spec.role is Role.EXPORTER and RUN_DIR_VARIABLE not in member.spec.env:
            # The page, say, is to show the supervisor that started it.
            environment[RUN_DIR_VARIABLE] = str(self.run_dir.path)
        return environment

    def _identify(self, spawned: Spawned) -> None:
        """Note who a child is: it keeps its pid until we reap it.

        Not at once after its spawn: whoever asks then waits until it has become its program.
        """
        self.children.origins[spawned.name].identity = kernel.read_identity(spawned.pid)

    def _spawn(self, prepared: _Prepared, *, written: bool) -> Spawned | SpawnFailed:
        name, incarnation = prepared.process.name, prepared.process.incarnation
        lock = self._lock(name, incarnation)
        locks = () if lock is None else (lock,)
        try:
            if name == METRICSD:
                child = self._spawn_metricsd(prepared, locks)
            else:
                child = self._spawn_session(prepared, locks, written=written)
        except SpawnError as error:
            self.run_dir.remove_lock(name, incarnation)
            return SpawnFailed(name, incarnation, error.reason, error.final)
        finally:
            for descriptor in locks:  # it is the child's alone from here on
                os.close(descriptor)
        self.children.present[name] = child
        return Spawned(name, incarnation, child.pid)

    def _lock(self, name: str, incarnation: int) -> int | None:
        try:
            return self.run_dir.lock_spawn(name, incarnation)
        except OSError as error:
            log.warning("cannot lock the spawn of %s: %s", name, error)
            return None

    def _spawn_session(
        self, prepared: _Prepared, locks: tuple[int, ...], *, written: bool
    ) -> Child:
        # Without lock and intent a crash would lose the child; metricsd alone is worth that.
        if not written or not locks:
            raise SpawnError("cannot write its state down", final=False)
        spec = self.members[prepared.process.name].spec
        return spawn.spawn(
            spec.name,
            prepared.process.incarnation,
            spec.command,
            environment=prepared.environment,
            cwd=spec.cwd,
            output=prepared.output,
            pass_fds=locks,
            limits=spec.limits,
            descriptors=self.descriptors,
        )

    def _spawn_metricsd(self, prepared: _Prepared, locks: tuple[int, ...]) -> Child:
        descriptor = self.listener.fileno()
        command = (
            # -P: neither the working directory nor what lies in it can shadow our packages.
            *(sys.executable, "-P", "-m", "telemetry.metricsd", "--fd", str(descriptor)),
            *("--multiproc-dir", str(self.config.multiproc_dir)),
            *("--supervisor-metrics", str(self.run_dir.metrics)),
            *("--handback", str(self.run_dir.handback)),
            *self.config.metricsd_options,
        )
        return spawn.spawn(
            METRICSD,
            prepared.process.incarnation,
            command,
            environment=prepared.environment,
            cwd=self.run_dir.path,
            output=prepared.output,
            pass_fds=(descriptor, *locks),
        )
