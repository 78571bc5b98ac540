"""How a child comes into the world: the intent is written and its lock held before the spawn.

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
from supervisor.admission import check_complete, check_gates
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
    from collections.abc import Mapping

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

    def spawn(self, process: Process) -> Spawned | SpawnFailed:
        """Spawn one incarnation, which the fleet has asked for."""
        name, incarnation = process.name, process.incarnation
        member, nonce = self.members.get(name), secrets.token_hex(8)
        marks = build_marks(member.spec, nonce) if member else {}
        log_start = find_end(self.run_dir.log(name))
        origin = Origin(incarnation, nonce, marks=marks, log_start=log_start)
        self.children.origins[name] = origin
        # The intent, before there is anything to lose. Without it a crash would lose the child;
        # metricsd alone is worth that.
        lock = self._lock(name, incarnation)
        written = self.journal.write(process) and lock is not None
        if not written and name != METRICSD:
            return SpawnFailed(name, incarnation, "cannot write its state down", final=False)
        locks = () if lock is None else (lock,)
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
        self.children.origins[name] = replace(origin, identity=kernel.read_identity(child.pid))
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
        check_gates(member.spec, member.inherited, self.config.denied)
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
