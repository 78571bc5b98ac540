"""The picture of docs/architecture.md, held to the source: who may know whom, who touches what."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("supervisor", "telemetry")

# Each room, its kind, and the rooms it imports when it runs, wherever in it the import stands.
# A new module needs a row here and one in docs/architecture.md; so does a new import.
# pure: no clock, no I/O, nothing of the operating system. view: pure but for what it draws with.
ROOMS: Final = """
supervisor                pure   telemetry.version
supervisor.errors         pure
supervisor.config         pure   telemetry.mode
supervisor.config.values  pure   config errors telemetry.mode telemetry.policy
supervisor.config.keys    pure   config config.values errors telemetry.mode
supervisor.config.dotenv  pure   errors
supervisor.config.order   pure   errors
supervisor.config.toml    pure   config config.dotenv config.keys config.order config.values
                                 errors
supervisor.config.flags   pure   config config.values errors
supervisor.config.example  pure
supervisor.config.diff    pure   config.keys
supervisor.config.marks   pure   telemetry.mode
supervisor.config.documents  pure  config config.keys config.values errors
supervisor.gates          pure   gates.gate gates.names gates.refusal
supervisor.gates.refusal  pure
supervisor.gates.names    pure
supervisor.gates.texts    pure
supervisor.gates.settings  pure  gates.names
supervisor.gates.files    pure   gates.names gates.settings gates.texts
supervisor.gates.gate     pure   gates.files gates.names gates.refusal gates.settings
                                 gates.texts
supervisor.events         pure
supervisor.environ        pure   config gates telemetry.mode
supervisor.process        pure   config
supervisor.restarts       pure   config
supervisor.lifecycle      pure   config events process restarts
supervisor.fleet          pure   config process
supervisor.step           pure   config events fleet lifecycle process
supervisor.drift          pure
supervisor.drift.facts    pure
supervisor.drift.directory  pure   drift
supervisor.drift.sessions   pure   drift
supervisor.drift.stack      pure   config drift drift.facts
supervisor.drift.find       pure   drift drift.directory drift.sessions drift.stack
supervisor.words          pure   fleet process
supervisor.status         pure   config.values drift fleet words telemetry.masking telemetry.mode
supervisor.adoption       pure   config config.keys events process telemetry.masking
supervisor.exposition     pure   drift process
supervisor.control        pure   errors
supervisor.scrape_config  pure   telemetry.mode
supervisor.units          pure   config
supervisor.render         view   telemetry.mode telemetry.plain

supervisor.kernel         shell  kernel.darwin kernel.file_lock kernel.linux kernel.listening
                                 kernel.spawn_lock telemetry.processes
supervisor.kernel.darwin  shell  kernel telemetry.processes
supervisor.kernel.linux   shell  kernel telemetry.processes
supervisor.kernel.listening  shell
supervisor.kernel.file_lock  shell
supervisor.kernel.spawn_lock  shell
supervisor.copies         shell  kernel
supervisor.logs           shell  copies telemetry.plain
supervisor.rotation       shell  copies kernel
supervisor.rotator        shell  copies drift.facts kernel rotation trouble
supervisor.spawn          shell  errors kernel
supervisor.port           shell  errors telemetry.listen
supervisor.records        pure   config.keys telemetry.masking
supervisor.rundir         shell  config copies errors logs records telemetry.directories
supervisor.dead_status    pure   config config.keys config.values process status words
supervisor.observe        shell  environ status
                                 telemetry.claim telemetry.processes telemetry.shards
supervisor.told           shell  kernel
supervisor.adoptee        shell  kernel observe spawn told
supervisor.remains        shell  kernel observe spawn told
supervisor.claims         shell  drift drift.facts telemetry.claim telemetry.clearing
supervisor.admission      shell  environ errors gates gates.files gates.refusal spawn
supervisor.notify         shell
supervisor.kept           shell
supervisor.pulse          shell  kernel
supervisor.probe          shell  config events kept process pulse telemetry.mode
supervisor.rounds         shell
supervisor.trouble        shell
supervisor.watch          shell  kernel trouble
supervisor.look           pure
supervisor.look.health    pure
supervisor.look.directory  shell  drift.facts telemetry.shards
supervisor.look.processes  shell  drift.facts kernel observe telemetry.holders
                                 telemetry.masking telemetry.processes telemetry.shards
supervisor.look.sockets   shell  drift.facts kernel look.processes observe
supervisor.look.values    shell  telemetry.shards
supervisor.look.everything  shell  config.toml look.directory look.processes look.sockets
                                 look.values
supervisor.look.snapshot  shell  drift.facts look.health
supervisor.audit          shell  drift drift.facts drift.find look.everything look.snapshot trouble
                                 watch
supervisor.crew           shell  adoptee config config.marks config.values drift.facts environ
                                 look.processes process telemetry.mode
supervisor.readiness      shell  config.values events probe
supervisor.confine        shell
supervisor.config_file    shell  config.toml errors
supervisor.children       shell  kernel
supervisor.journal        shell  config.diff errors kernel process records supervisor trouble words
                                 telemetry.log_lines
supervisor.waiters        shell
supervisor.tasks          shell
supervisor.publisher      shell  exposition fleet kernel
supervisor.spawner        shell  supervisor admission children config config.marks environ errors
                                 events kernel spawn
supervisor.deaths         shell  adoptee descriptors events kernel lifecycle remains spawn
supervisor.adopt          shell  adoptee adoption children config events kernel
supervisor.loop           shell  adopt adoption audit children claims config crew deaths errors
                                 events fleet journal logs look.everything probe process publisher
                                 readiness rotator rounds spawner step tasks trouble waiters words
                                 telemetry.clearing telemetry.mode
supervisor.reload         shell  admission config config.diff config.flags config.values config_file
                                 crew environ errors events fleet process words
supervisor.verbs          shell  admission config.documents config.order config.values drift environ
                                 errors events fleet kernel logs observe process reload status
                                 supervisor words
supervisor.serve          shell  control errors fleet kernel trouble verbs
supervisor.orphans        shell  adoption client config config.keys dead_status errors kernel
                                 observe told telemetry.clearing
supervisor.takeover       shell  admission adoption client config config.marks drift.facts environ
                                 errors gates kernel observe orphans port process telemetry.mode
                                 telemetry.processes
supervisor.descriptors    shell  errors
supervisor.launch         shell  audit claims config control descriptors errors events fleet notify
                                 pulse serve spawn takeover words telemetry.clearing
                                 telemetry.log_lines
supervisor.client         shell  control errors kernel
supervisor.doctor         pure
supervisor.doctor.facts   pure
supervisor.doctor.find    pure   doctor doctor.facts doctor.sessions
supervisor.doctor.sessions pure   doctor doctor.facts drift telemetry.labels telemetry.masking
                                 telemetry.mode
supervisor.doctor.interpreter shell  doctor.facts environ gates telemetry.masking telemetry.mode
supervisor.doctor.processes shell  doctor.facts doctor.interpreter environ kernel look.values
                                 observe telemetry.masking telemetry.mode telemetry.processes
                                 telemetry.shards
supervisor.doctor.stack   shell  client config control doctor.facts doctor.processes doctor.sessions
                                 errors kernel logs look.health observe orphans probe
                                 telemetry.holders telemetry.mode telemetry.processes
supervisor.follow         shell  logs telemetry.plain
supervisor.handover       shell  client config.diff config.documents control errors
supervisor.report         shell  client control orphans
supervisor.foreground     shell  client control errors follow launch words telemetry.log_lines
supervisor.cli            pure
supervisor.cli.options    shell  config config.flags config.toml config_file errors rundir words
                                 telemetry.mode telemetry.plain
supervisor.cli.doctor     shell  cli.options config config.flags doctor doctor.find doctor.stack
                                 errors telemetry.plain
supervisor.cli.start      shell  admission cli.options client config config.flags environ
                                 errors foreground handover launch loop takeover telemetry.plain
supervisor.cli.reload     shell  cli.options client config.diff control foreground telemetry.plain
supervisor.cli.stop       shell  cli.options client control errors foreground orphans
supervisor.cli.status     shell  cli.options client errors render report
supervisor.cli.drift      shell  cli.options client control drift errors render
supervisor.cli.logs       shell  cli.options config errors follow
supervisor.cli.init       shell  cli.options config config.example config.flags errors units
supervisor.cli.scrape_config  shell  cli.options config.flags errors report scrape_config
supervisor.verify         pure
supervisor.verify.snapshot  pure
supervisor.verify.checks  pure   scrape_config verify.snapshot telemetry.mode
supervisor.verify.render  pure   telemetry.plain
supervisor.verify.evidence  pure   verify.checks verify.render
supervisor.verify.ask     shell  verify.snapshot
supervisor.verify.measure shell  scrape_config verify.ask verify.checks verify.snapshot
supervisor.verify.gather  shell  supervisor observe verify.evidence telemetry.masking
supervisor.cli.verify     shell  cli.options config.flags errors report scrape_config
                                 verify.checks verify.evidence verify.gather verify.measure
                                 verify.render telemetry.mode telemetry.processes
supervisor.cli.entry      shell  cli.doctor cli.drift cli.init cli.logs cli.outcome cli.reload
                                 cli.scrape_config cli.start cli.status cli.stop cli.verify
                                 supervisor
supervisor.cli.outcome    shell  errors telemetry.plain
supervisor.cli.__main__   shell  cli.entry

supervisor.web            pure
supervisor.web.guard      pure
supervisor.web.history    pure
supervisor.web.view       pure   web.history
supervisor.web.watch      shell  errors report web.history web.view telemetry.mode
                                 telemetry.shards
supervisor.web.app        shell  config logs web.guard
supervisor.web.__main__   shell  cli.options cli.outcome config.values port web.app web.watch
                                 telemetry.mode

telemetry                 shell  metrics
telemetry.ai_live         pure
telemetry.ai_live.events  pure
telemetry.ai_live.follow  shell
telemetry.ai_live.metrics shell  ai_live.events answers
telemetry.ai_live.__main__  shell  ai_live.events ai_live.follow ai_live.metrics answers listen
                                 mode server
telemetry.labels          pure
telemetry.mode            pure
telemetry.preallocate     shell
telemetry.metrics         shell  labels mode preallocate
telemetry.directories     shell
telemetry.plain           pure
telemetry.masking         pure
telemetry.log_lines       shell  plain
telemetry.processes       shell
telemetry.shard_format    pure
telemetry.shards          shell  shard_format
telemetry.base            pure   shard_format
telemetry.fold            shell  base directories shards
telemetry.claim           shell  processes shards
telemetry.handback        shell  processes
telemetry.holders         shell  masking shards
telemetry.clearing        shell  directories holders shards
telemetry.listen          shell  holders mode
telemetry.answers         pure
telemetry.policy          pure
telemetry.version         pure
telemetry.descriptors     shell
telemetry.groups          shell  shards
telemetry.layouts         shell  groups shards
telemetry.gathering       shell  shards
telemetry.readings        shell  gathering groups layouts processes shards
telemetry.plan            shell
telemetry.families        shell  groups plan shards
telemetry.adding          shell  families plan shards
telemetry.sums            shell  adding families readings
telemetry.nothing         shell  plan shards
telemetry.page            shell  answers
telemetry.own_metrics     shell  plan processes version
telemetry.single_flight   shell
telemetry.complaints      shell
telemetry.violations      shell
telemetry.retired         shell  base fold shards
telemetry.collector       shell  base complaints fold nothing own_metrics page retired shards
                                 single_flight sums violations
telemetry.server          shell
telemetry.options         shell  mode policy
telemetry.metricsd        shell  answers clearing collector descriptors handback listen log_lines
                                 mode options plain retired server shards
"""

# All that the supervisor may know of telemetry.
TELEMETRY_DOORS: Final = {
    "claim",
    "clearing",
    "directories",
    "holders",
    "labels",
    "listen",
    "log_lines",
    "masking",
    "mode",
    "plain",
    "processes",
    "policy",
    "shards",
    "version",
}

# Who may import what is not ours and not Python's: a room, or all that is in it.
FOREIGN: Final = {
    "click": {"supervisor.cli", "supervisor.follow", "supervisor.render", "supervisor.web"},
    "numpy": {
        "telemetry.adding",
        "telemetry.families",
        "telemetry.gathering",
        "telemetry.groups",
        "telemetry.layouts",
        "telemetry.plan",
        "telemetry.readings",
    },
    "prometheus_client": {
        "telemetry.ai_live",
        "supervisor.web",
        "telemetry.claim",
        "telemetry.collector",
        "telemetry.families",
        "telemetry.metrics",
        "telemetry.own_metrics",
        "telemetry.page",
    },
    "psutil": {"supervisor.observe", "telemetry.holders", "telemetry.processes"},
    "rich": {"supervisor.cli", "supervisor.render"},
    "starlette": {"supervisor.web"},
    "uvicorn": {"supervisor.web"},
    "waitress": {"telemetry.server"},
    "watchfiles": {"supervisor.watch"},
}

# What of Python a pure room may use.
PURE_LIBRARY: Final = """
    __future__ collections collections.abc dataclasses enum fnmatch hashlib ipaddress itertools json
    math re shlex struct textwrap tomllib types typing unicodedata zlib
"""
# And the few names of other modules: numbers, strings, what is pure and happens to live there.
PURE_NAMES: Final = {
    ("supervisor.gates", "functools"): {"lru_cache"},
    ("telemetry.masking", "functools"): {"lru_cache"},
    ("supervisor.config.documents", "pathlib"): {"Path"},
    ("supervisor.config.marks", "posixpath"): {"normpath"},
    ("supervisor.config.flags", "pathlib"): {"Path", "PurePath"},
    ("supervisor.adoption", "pathlib"): {"Path"},
    ("supervisor.environ", "os"): {"defpath", "pathsep"},
    ("supervisor.lifecycle", "signal"): {"SIGKILL", "SIGTERM", "Signals"},
    ("supervisor.words", "signal"): {"Signals"},
    ("supervisor.scrape_config", "urllib.parse"): {"quote"},
    ("supervisor.verify.checks", "urllib.parse"): {"urlsplit"},
    ("telemetry.ai_live.events", "datetime"): {"UTC", "datetime", "fromisoformat"},
    ("telemetry.mode", "pathlib"): {"Path"},
    ("supervisor.web.view", "pathlib"): {"PurePath"},
}
# A Path is a name; with one of these it would become a file.
TOUCHING: Final = """
    absolute chmod cwd exists expanduser glob home is_dir is_file iterdir lstat mkdir open
    read_bytes read_text readlink rename resolve rglob rmdir samefile stat touch unlink
    write_bytes write_text
"""
BUILTIN_IO: Final = "breakpoint eval exec input open print"

# The only places that ask which operating system this is.
PLATFORM: Final = {
    "supervisor.kernel",
    "supervisor.kernel.darwin",
    "telemetry.holders",
    "telemetry.preallocate",
    "telemetry.processes",
}

# Whatever could bring another process into the world, and who may. launch forks the supervisor
# itself, to detach; on macOS two rooms ask ps.
STARTERS: Final = {
    "supervisor.spawn": {"os.posix_spawn"},
    "supervisor.confine": {"os.execvp"},
    "supervisor.launch": {"os.fork"},
    "supervisor.kernel.darwin": {"subprocess.run"},
    "supervisor.doctor.interpreter": {"subprocess.SubprocessError", "subprocess.run"},
    "telemetry.processes": {"subprocess.run"},
}


# -- Reading the source --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module; `typing` when it is there for annotations alone."""

    target: str
    typing: bool


@dataclass(frozen=True, slots=True)
class Room:
    """One module: its docstring, what it imports, names and calls."""

    name: str
    law: str | None
    imports: tuple[Import, ...]
    names: frozenset[str]
    calls: tuple[ast.Call, ...]

    def find_ours(self, *, typing: bool) -> set[str]:
        """Find the rooms it knows; with `typing` also those it knows in annotations alone."""
        return {module for module in self._find(typing=typing) if find_top(module) in PACKAGES}

    def find_others(self, *, typing: bool) -> set[str]:
        """Find what it imports from Python or from strangers."""
        return {module for module in self._find(typing=typing) if find_top(module) not in PACKAGES}

    def _find(self, *, typing: bool) -> set[str]:
        return {found.target for found in self.imports if typing or not found.typing}


def find_top(module: str) -> str:
    return module.partition(".")[0]


@cache
def read_rooms() -> dict[str, Room]:
    paths = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    rooms = {}
    for name, path in paths.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        rooms[name] = Room(
            name,
            ast.get_docstring(tree),
            tuple(find_imports(tree, package, frozenset(paths))),
            frozenset(find_names(tree)),
            tuple(node for node in ast.walk(tree) if isinstance(node, ast.Call)),
        )
    return rooms


def find_imports(
    node: ast.AST, package: str, known: frozenset[str], *, typing: bool = False
) -> Iterator[Import]:
    """Find every import under a node, those inside functions, classes and conditions too."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from (Import(alias.name, typing) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = [package.rsplit(".", level - 1)[0]] if level else []
                base = ".".join([*above, *([module] if module else [])])
                for alias in names:
                    full = f"{base}.{alias.name}"
                    yield Import(full if full in known else base, typing)
            case ast.If(test=test, body=body, orelse=orelse) if is_type_checking(test):
                for part in body:
                    yield from find_imports(ast.Module([part], []), package, known, typing=True)
                for part in orelse:
                    yield from find_imports(ast.Module([part], []), package, known, typing=typing)
            case ast.AST():
                yield from find_imports(child, package, known, typing=typing)


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def find_names(tree: ast.AST) -> Iterator[str]:
    """Find every dotted name, every name imported from a module as `module.name`, every alias."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (f"{alias.name} as {alias.asname}" for alias in names if alias.asname)
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                yield f"{module}.{name}"
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.AST():
                pass


def parse_rooms() -> dict[str, tuple[str, set[str]]]:
    """Read the table: name -> kind and imports; names without a package are of the row's own."""
    rows: dict[str, tuple[str, set[str]]] = {}
    for line in ROOMS.splitlines():
        if not line.strip():
            continue
        words = line.split()
        if not line.startswith(" "):
            name, kind, *words = words
            rows[name] = (kind, set())
        package = find_top(name)
        ours = (word if find_top(word) in PACKAGES else f"{package}.{word}" for word in words)
        rows[name][1].update(ours)
    return rows


def find_rooms(*kinds: str) -> list[Room]:
    rooms = read_rooms()
    return [rooms[name] for name, (kind, _) in parse_rooms().items() if kind in kinds]


# -- The graph -----------------------------------------------------------------------------------


def test_every_room_has_its_row() -> None:
    assert set(read_rooms()) == set(parse_rooms())


def test_each_room_imports_exactly_what_its_row_says() -> None:
    for name, (_, allowed) in parse_rooms().items():
        found = read_rooms()[name].find_ours(typing=False)
        assert found <= allowed, f"{name} may not import {found - allowed}"
        assert allowed <= found, f"the row of {name} names {allowed - found} for nothing"


def test_imports_run_one_way() -> None:
    # The kernel's files and its door are one room. Annotations must not point upwards either.
    def find_room(name: str) -> str:
        return "supervisor.kernel" if name.startswith("supervisor.kernel.") else name

    graph: dict[str, set[str]] = {}
    for name, room in read_rooms().items():
        below = {find_room(other) for other in room.find_ours(typing=True)}
        graph.setdefault(find_room(name), set()).update(below - {find_room(name)})
    TopologicalSorter(graph).prepare()  # raises CycleError, which shows the cycle


def test_telemetry_never_knows_the_supervisor() -> None:
    for name, room in read_rooms().items():
        if find_top(name) == "telemetry":
            assert not [n for n in room.find_ours(typing=True) if find_top(n) != "telemetry"]


def test_the_supervisor_enters_telemetry_by_its_doors_alone() -> None:
    for name, room in read_rooms().items():
        if find_top(name) == "supervisor":
            known = {n for n in room.find_ours(typing=True) if find_top(n) == "telemetry"}
            assert known <= {f"telemetry.{door}" for door in TELEMETRY_DOORS}, name


def test_a_pure_room_knows_only_pure_rooms() -> None:
    pure = {room.name for room in find_rooms("pure")}
    for room in find_rooms("pure"):
        assert room.find_ours(typing=True) <= pure, room.name


def test_no_import_is_hidden() -> None:
    # Neither in a call nor behind another name, where the tests below would not see it.
    for name, room in read_rooms().items():
        called = {ast.unparse(call.func).rpartition(".")[2] for call in room.calls}
        assert not called & {"import_module", "__import__", "exec", "eval"}, name
        hidden = {found for found in room.names if " as " in found}
        assert hidden <= {"numpy as np"}, name


# -- What a room may touch -------------------------------------------------------------------------


def test_a_pure_room_uses_nothing_of_the_operating_system() -> None:
    for room in find_rooms("pure", "view"):
        for module in room.find_others(typing=False) - set(PURE_LIBRARY.split()):
            if find_top(module) not in FOREIGN:
                names = {n.rpartition(".")[2] for n in room.names if n.startswith(f"{module}.")}
                allowed = PURE_NAMES.get((room.name, module), set())
                assert names <= allowed, f"{room.name} uses {module}: {names - allowed}"
                assert names, f"{room.name} imports {module}"


def test_a_pure_room_opens_and_prints_nothing() -> None:
    for room in find_rooms("pure", "view"):
        for call in room.calls:
            match call.func:
                case ast.Attribute(attr=name):
                    assert name not in TOUCHING.split(), (
                        f"{room.name}:{call.lineno} calls .{name}()"
                    )
                case ast.Name(id=name):
                    assert name not in BUILTIN_IO.split(), (
                        f"{room.name}:{call.lineno} calls {name}()"
                    )
                case ast.expr():
                    pass


def test_a_pure_room_uses_no_foreign_library() -> None:
    for room in find_rooms("pure"):
        assert not {find_top(module) for module in room.find_others(typing=True)} & set(FOREIGN)


def test_each_foreign_library_is_used_where_it_may_be_and_nowhere_else() -> None:
    for name, room in read_rooms().items():
        for module in {find_top(found) for found in room.find_others(typing=True)}:
            if module not in sys.stdlib_module_names:
                rooms = FOREIGN.get(module, set())
                assert {name, name.rpartition(".")[0]} & rooms, f"{name} imports {module}"


def test_only_the_named_places_ask_for_the_platform() -> None:
    asking = {"sys.platform", "os.name", "os.uname", "sys.getwindowsversion"}
    for name, room in read_rooms().items():
        asks = asking & room.names or "platform" in room.find_others(typing=True)
        assert bool(asks) == (name in PLATFORM), f"{name} asks {asks or 'no more'}"


def test_only_spawn_starts_processes() -> None:
    for name, room in read_rooms().items():
        started = {found for found in room.names if is_starter(found)}
        assert started == STARTERS.get(name, set()), name
        modules = {find_top(module) for module in room.find_others(typing=True)}
        assert not modules & {"multiprocessing", "pty", "concurrent"}, name


def is_starter(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    match module:
        case "subprocess":
            return attribute not in {"DEVNULL", "STDOUT", "PIPE"}
        case "os":
            return attribute.startswith(("fork", "exec", "spawn", "posix_spawn", "system", "popen"))
        case "asyncio":
            return attribute.startswith("create_subprocess")
        case _:
            return False


def test_nothing_reaps_a_child_that_is_not_claimed() -> None:
    # Only spawn.reap and spawn.reap_stranger may, and never whoever comes first.
    reaping = {"wait3", "wait4", "waitpid", "poll", "send_signal", "terminate", "communicate"}
    # What is polled in these are descriptors.
    may = {
        "supervisor.spawn": {"waitpid"},
        "supervisor.kernel.linux": {"poll"},
        "supervisor.pulse": {"poll"},
    }
    for name, room in read_rooms().items():
        allowed = may.get(name, set())
        for call in room.calls:
            called = ast.unparse(call.func).rpartition(".")[2]
            assert called not in reaping - allowed, f"{name}:{call.lineno} calls {called}"
            everybody = called == "waitpid" and ast.unparse(call.args[0]) in {"-1", "0"}
            assert not everybody, f"{name}:{call.lineno} waits for anybody"
            if called == "waitid":
                assert "os.WNOWAIT" in ast.unparse(call), f"{name}:{call.lineno} reaps"


def test_nothing_runs_between_fork_and_exec_and_no_shell_is_asked() -> None:
    for name, room in read_rooms().items():
        for call in room.calls:
            keywords = {keyword.arg for keyword in call.keywords}
            assert not keywords & {"preexec_fn", "shell"}, f"{name}:{call.lineno}"


def test_no_time_is_taken_from_the_wall_clock() -> None:
    wall = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}
    for name, room in read_rooms().items():
        # Evidence is dated: nothing is measured with it.
        if name != "supervisor.verify.gather":
            assert not wall & room.names, name


# -- How a room begins --------------------------------------------------------------------------


def test_every_room_opens_with_its_law() -> None:
    for name, room in read_rooms().items():
        assert room.law, f"{name} has no docstring"


def test_the_page_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in read_rooms().keys() - {"supervisor"}:
        room = name.removeprefix("supervisor.").removeprefix("telemetry.")
        assert f"`{room}`" in page, f"docs/architecture.md does not name {name}"


# -- The readers above, on planted sources --------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "typing"),
    [
        ("import supervisor.loop", "supervisor.loop", False),
        ("import supervisor.loop as quiet", "supervisor.loop", False),
        ("from supervisor import loop", "supervisor.loop", False),
        ("from supervisor import __version__", "supervisor", False),
        ("from supervisor.loop import Loop", "supervisor.loop", False),
        ("from . import loop", "supervisor.loop", False),
        ("from .loop import Loop", "supervisor.loop", False),
        ("def f():\n    from supervisor.loop import Loop", "supervisor.loop", False),
        (
            "class A:\n    async def f(self):\n        import supervisor.loop",
            "supervisor.loop",
            False,
        ),
        ("try:\n    import psutil\nexcept ImportError:\n    pass", "psutil", False),
        ("if x:\n    pass\nelse:\n    import psutil", "psutil", False),
        ("if TYPE_CHECKING:\n    from supervisor.loop import Loop", "supervisor.loop", True),
        ("if typing.TYPE_CHECKING:\n    import supervisor.loop", "supervisor.loop", True),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import psutil", "psutil", False),
        ("if TYPE_CHECKING:\n    if x:\n        import psutil", "psutil", True),
    ],
)
def test_an_import_is_found_wherever_it_stands(source: str, target: str, *, typing: bool) -> None:
    known = frozenset({"supervisor", "supervisor.loop"})
    assert list(find_imports(ast.parse(source), "supervisor", known)) == [Import(target, typing)]


def test_a_name_is_found_however_it_came() -> None:
    source = "import os as o\nfrom subprocess import Popen\nos.fork()\nx = sys.platform == 'a'"
    found = set(find_names(ast.parse(source)))
    assert found == {"os as o", "subprocess.Popen", "os.fork", "sys.platform"}
