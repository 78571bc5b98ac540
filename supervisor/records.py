"""The records of a supervisor and its processes: built for the journal, and read back from it.

Pure. A crash, a full disk or a person may have left anything in them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from supervisor.config.keys import build_settings
from telemetry.masking import mask_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervisor.config import Role, SessionSpec
    from supervisor.process import Process

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "name": (str,),
    "state": (str,),
    "target": (str,),
    "pid": (int,),
    "identity": (str,),
    "incarnation": (int,),
    "nonce": (str,),
    "returncode": (int,),
    "command": (list,),
    "cwd": (str,),
    "role": (str,),
    "planned": (bool,),
    "settings": (dict,),
    "variables": (list,),
    "marks": (dict,),
    "log_start": (int,),
    "dead": (bool,),
    "ending": (str,),
    "failures": (int,),
    "failed_at": (list,),
    "started_at": (int, float),
    "ready_at": (int, float),
    "version": (str,),
    "host": (str,),
    "port": (int,),
    "multiproc_dir": (str,),
    "denied": (list,),
    "file": (str,),
    "session": (int,),
    "number": (int,),
}


# In a line of the journal: of whom it names nothing is known any more.
FORGOTTEN: Final = "forgotten"


def build_state(process: Process, *, nonce: str, identity: str | None) -> dict[str, Any]:
    """Build what is recorded of a process whenever it has changed.

    Times are monotonic, and mean something as long as the boot lasts that the identity names.
    """
    return {
        "name": process.name,
        "state": str(process.state),
        "target": str(process.target),
        "pid": process.pid,
        "identity": identity,
        "incarnation": process.incarnation,
        "nonce": nonce,
        "returncode": process.returncode,
        "dead": process.dead,
        "ending": process.ending,
        "failures": process.failures,
        "failed_at": list(process.failed_at),
        "started_at": process.started_at,
        "ready_at": process.ready_at,
    }


def build_origin(role: Role, spec: SessionSpec | None) -> dict[str, Any]:
    """Build what is recorded of what a process is spawned from; metricsd has no spec.

    Of its environment only the names of the configured variables are in it.
    """
    return {
        "role": str(role),
        "command": list(mask_command(spec.command)) if spec else [],
        "cwd": str(spec.cwd) if spec else "",
        "variables": sorted(spec.env) if spec else [],
        "planned": spec.planned if spec else False,
        "settings": build_settings(spec) if spec else {},
    }


# -- Read back ------------------------------------------------------------------------------------


def parse_journal(text: str) -> dict[str, dict[str, Any]]:
    """Read the records of all processes, by name, in the order in which they were added.

    Each line says what became otherwise at a time, a change a process; what is no such line says
    nothing.
    """
    found: dict[str, dict[str, Any]] = {}
    for change in _list_changes(text):
        name = change.get("name") if isinstance(change, dict) else None
        if not isinstance(name, str):
            continue
        if FORGOTTEN in change:
            found.pop(name, None)
        else:
            found.setdefault(name, {}).update(change)
    records = {name: parse_record(document) for name, document in found.items()}
    return dict(sorted(records.items(), key=lambda item: item[1].get("number", 0)))


def _list_changes(text: str) -> Iterator[Any]:
    for line in text.splitlines():
        try:
            changes = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(changes, list):
            yield from changes
        else:  # a former ptsup gave each a line
            yield changes


def parse_record(document: object) -> dict[str, Any]:
    """Read a record back; a field of another type than we write counts as not there.

    Raises TypeError for what is no record at all.
    """
    if not isinstance(document, dict):
        raise TypeError("not a JSON object")
    record = {
        key: document[key]
        for key, types in _TYPES.items()
        if isinstance(document.get(key), types)
        and (types == (bool,) or not isinstance(document[key], bool))
    }
    for key in ("command", "variables", "denied"):
        if not all(isinstance(word, str) for word in record.get(key, [])):
            del record[key]
    if not all(isinstance(mark, str) for mark in record.get("marks", {}).values()):
        del record["marks"]
    if not all(type(moment) in {int, float} for moment in record.get("failed_at", [])):
        del record["failed_at"]
    directory = record.get("multiproc_dir", "/")
    if not directory.startswith("/") or "\0" in directory:
        del record["multiproc_dir"]
    return record
