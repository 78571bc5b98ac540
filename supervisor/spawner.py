"""How children come into the world: the intents are written, and each lock held, before a spawn.

Whatever goes wrong becomes a SpawnFailed; nothing here decides what follows from it.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from dataclasses import dataclass, replace
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
from supervisor.logs import find_end
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
        """Spawn these incarnations, which the fleet has asked for."""
        if not processes:
            return []
        for process in processes:
            self.children.origins[process.name] = self._build_origin(process)
            self.journal.note(process.name)
        # The intents, before there is anything to lose.
        written = self.journal.write()
        told = [self._spawn(process, written=written) for process in processes]
        for event in told:
            if isinstance(event, Spawned):
                self._identify(event)
        return told

    def _identify(self, spawned: Spawned) -> None:
        """Note who a child is: it keeps its pid until we reap it.

        Not at once after its spawn: whoever asks then waits until it has become its program.
        """
        origin = self.children.origins[spawned.name]
        identity = kernel.read_identity(spawned.pid)
        self.children.origins[spawned.name] = replace(origin, identity=identity)

    def _build_origin(self, process: Process) -> Origin:
        member, nonce = self.members.get(process.name), secrets.token_hex(8)
        return Origin(
            process.incarnation,
            nonce,
            marks=build_marks(member.spec, nonce) if member else {},
            log_start=find_end(self.run_dir.log(process.name)),
        )

    def _spawn(self, process: Process, *, written: bool) -> Spawned | SpawnFailed:
        name, incarnation = process.name, process.incarnation
        origin = self.children.origins[name]
        # Without lock and intent a crash would lose the child; metricsd alone is worth that.
        lock = self._lock(name, incarnation)
        locks = () if lock is None else (lock,)
        if (lock is None or not written) and name != METRICSD:
            for descriptor in locks:
                os.close(descriptor)
            self.run_dir.remove_lock(name, incarnation)
            return SpawnFailed(name, incarnation, "cannot write its state down", final=False)
        try:
            if name == METRICSD:
                child = self._spawn_metricsd(incarnation, origin.nonce, locks)
            else:
                child = self._spawn_session(self.members[name], incarnation, origin.nonce, locks)
        except SpawnError as error:
            self.run_dir.remove_lock(name, incarnation)
            return SpawnFailed(name, incarnation, error.reason, error.final)
        except (GateError, UsageError) as error:
            self.run_dir.remove_lock(name, incarnation)
            return SpawnFailed(name, incarnation, error.message, final=True)
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
        self, member: Admitted, incarnation: int, nonce: str, locks: tuple[int, ...]
    ) -> Child:
        check_complete(member)
        check_gates_again(member, self.config.denied)
        environment = member.build_environment(self.config.multiproc_dir, nonce)
        if member.spec.role is Role.EXPORTER and RUN_DIR_VARIABLE not in member.spec.env:
            # The page, say, is to show the supervisor that started it.
            environment[RUN_DIR_VARIABLE] = str(self.run_dir.path)
        return spawn.spawn(
            member.spec.name,
            incarnation,
            member.spec.command,
            environment=environment,
            cwd=member.spec.cwd,
            log=self.run_dir.log(member.spec.name),
            pass_fds=locks,
            limits=member.spec.limits,
            descriptors=self.descriptors,
        )

    def _spawn_metricsd(self, incarnation: int, nonce: str, locks: tuple[int, ...]) -> Child:
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
            incarnation,
            command,
            environment=build_metricsd_environment(
                os.environ, package_root=PACKAGE_ROOT, nonce=nonce
            ),
            cwd=self.run_dir.path,
            log=self.run_dir.log(METRICSD),
            pass_fds=(descriptor, *locks),
        )
