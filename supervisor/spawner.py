"""How children come into the world: the intents are written, and each lock held, before a spawn.

Whatever goes wrong becomes a SpawnFailed; nothing here decides what follows from it.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from dataclasses import dataclass, field
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
from supervisor.spawn import SpawnError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from supervisor.admission import Admitted
    from supervisor.config import Config
    from supervisor.journal import Journal
    from supervisor.process import Process
    from supervisor.rundir import RunDir

log = logging.getLogger("ptsup")

PACKAGE_ROOT: Final = Path(supervisor.__file__).resolve().parent.parent


@dataclass(slots=True, kw_only=True)
class _Prepared:
    """An incarnation that has all it needs but its lock and its log."""

    process: Process
    origin: Origin
    command: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    pass_fds: tuple[int, ...] = ()
    limits: Mapping[str, int | None] | None = None
    descriptors: int | None = None


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
    _nameless: list[Spawned] = field(default_factory=list)

    def spawn(self, processes: Sequence[Process]) -> list[Spawned | SpawnFailed]:
        """Spawn these incarnations, which the fleet has asked for.

        What can be prepared for all of them is, first: nothing of it is cold for the next then.
        """
        if not processes:
            return []
        told: list[Spawned | SpawnFailed] = []
        ready: list[_Prepared] = []
        for process in processes:
            prepared = self._prepare(process)
            if isinstance(prepared, _Prepared):
                ready.append(prepared)
            else:
                told.append(prepared)
        # Who is to come: whoever a crash leaves to come is spawned after it.
        written = self.journal.write()
        with self.run_dir.hold_journal():
            told += [self._spawn(each, written=written) for each in ready]
        self._nameless += [event for event in told if isinstance(event, Spawned)]
        self.identify()
        return told

    def identify(self) -> None:
        """Note who the last to be spawned are: each keeps its pid until we reap it.

        Not at once after its spawn: whoever asks then waits until it has become its program.
        Who cannot be looked at now, as without descriptors, is at the next call.
        """
        nameless, self._nameless = self._nameless, []
        for spawned in nameless:
            child = self.children.present.get(spawned.name)
            if child is None or child.pid != spawned.pid:
                continue
            try:
                identity = kernel.read_identity(spawned.pid)
            except OSError:
                self._nameless.append(spawned)
            else:
                self.children.origins[spawned.name].identity = identity
                self.journal.note(spawned.name)

    def _prepare(self, process: Process) -> _Prepared | SpawnFailed:
        nonce = secrets.token_hex(8)
        try:
            if process.name == METRICSD:
                return self._prepare_metricsd(process, nonce)
            return self._prepare_member(process, nonce)
        except (GateError, UsageError) as error:
            return SpawnFailed(process.name, process.incarnation, error.message, final=True)

    def _prepare_member(self, process: Process, nonce: str) -> _Prepared:
        member = self.members[process.name]
        spec = member.spec
        check_complete(member)
        check_gates_again(member, self.config.denied)
        environment = member.build_environment(self.config.multiproc_dir, nonce)
        if spec.role is Role.EXPORTER and RUN_DIR_VARIABLE not in spec.env:
            # The page, say, is to show the supervisor that started it.
            environment[RUN_DIR_VARIABLE] = str(self.run_dir.path)
        return _Prepared(
            process=process,
            origin=Origin(process.incarnation, nonce, marks=build_marks(spec, nonce)),
            command=spec.command,
            environment=environment,
            cwd=spec.cwd,
            limits=spec.limits,
            descriptors=self.descriptors,
        )

    def _prepare_metricsd(self, process: Process, nonce: str) -> _Prepared:
        descriptor = self.listener.fileno()
        command = (
            # -P: neither the working directory nor what lies in it can shadow our packages.
            *(sys.executable, "-P", "-m", "telemetry.metricsd", "--fd", str(descriptor)),
            *("--multiproc-dir", str(self.config.multiproc_dir)),
            *("--supervisor-metrics", str(self.run_dir.metrics)),
            *("--handback", str(self.run_dir.handback)),
            *self.config.metricsd_options,
        )
        return _Prepared(
            process=process,
            origin=Origin(process.incarnation, nonce),
            command=command,
            environment=build_metricsd_environment(
                os.environ, package_root=PACKAGE_ROOT, nonce=nonce
            ),
            cwd=self.run_dir.path,
            pass_fds=(descriptor,),
        )

    def _spawn(self, prepared: _Prepared, *, written: bool) -> Spawned | SpawnFailed:
        name, incarnation = prepared.process.name, prepared.process.incarnation
        lock = kernel.SpawnLock(self.run_dir.states, prepared.origin.nonce)
        ours: list[int] = []  # until the spawn: then they are the child's alone
        try:
            ours += self._take(lock, name)
            locks = tuple(ours)
            output = self._open_log(name)
            ours.append(output)
            prepared.origin.log_start = os.fstat(output).st_size
            self._write_intent(name, prepared.origin, written=written)
            child = spawn.spawn(
                name,
                incarnation,
                prepared.command,
                environment=prepared.environment,
                cwd=prepared.cwd,
                output=output,
                pass_fds=(*prepared.pass_fds, *locks),
                limits=prepared.limits,
                descriptors=prepared.descriptors,
            )
        except SpawnError as error:
            lock.remove()
            self._take_back(name, prepared.origin)
            return SpawnFailed(name, incarnation, error.reason, error.final)
        finally:
            for descriptor in ours:
                os.close(descriptor)
        self.children.present[name] = child
        return Spawned(name, incarnation, child.pid)

    def _take(self, lock: kernel.SpawnLock, name: str) -> tuple[int, ...]:
        """Take its lock, which metricsd alone may be spawned without; raises SpawnError."""
        try:
            return (lock.take(),)
        except OSError as error:
            if name != METRICSD:
                reason = f"cannot lock its spawn: {error.strerror}"
                raise SpawnError(reason, final=False) from error
            log.warning("cannot lock the spawn of %s: %s", name, error)
            return ()

    def _open_log(self, name: str) -> int:
        try:
            return self.run_dir.open_log(name)
        except OSError as error:
            reason = f"cannot open {self.run_dir.log(name)}: {error.strerror}"
            raise SpawnError(reason, final=False) from error

    def _write_intent(self, name: str, origin: Origin, *, written: bool) -> None:
        """Write down whom we are about to spawn, the last before there is anything to lose.

        Raises SpawnError: without it a crash would lose the child; metricsd alone is worth that.
        """
        self.children.origins[name] = origin
        written = self.journal.write_intent(name, origin) and written
        if not written and name != METRICSD:
            raise SpawnError("cannot write its state down", final=False)

    def _take_back(self, name: str, origin: Origin) -> None:
        """Have no intent any more: after a crash it would count as one that has ended."""
        if self.children.origins.get(name) is origin:
            origin.nonce = ""
            self.journal.write_intent(name, origin)
            self.journal.note(name)  # in case that it could not be written
