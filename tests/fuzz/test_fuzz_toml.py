"""Damaged configuration files by the thousand: each is read, or refused in one clear line.

`make test` takes some thousands of them; `make fuzz` sets PTSUP_FUZZ_TOML for 50,000. Every
fourth lies on the disk, as bytes that need not be text; the rest is text alone, for speed.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor.config.diff import diff_specs
from supervisor.config.documents import build_document, parse_session_document
from supervisor.config.example import EXAMPLE
from supervisor.config.flags import Fallback, Flags, build_config
from supervisor.config.keys import EXPORTER_KEYS, SESSION_KEYS
from supervisor.config.toml import TOP_KEYS, find_env_files, parse_toml
from supervisor.config.values import LIMITS
from supervisor.config_file import read_config_file
from supervisor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config import Config

FILES: Final = int(os.environ.get("PTSUP_FUZZ_TOML", "2500"))
SEED: Final = int(os.environ.get("PTSUP_FUZZ_SEED", "1"))
# Of this thread's own time: a busy machine is no hang.
SLOWEST_SECONDS: Final = 2.0
FALLBACK: Final = Fallback(port=9111, multiproc_dir=Path("prom_multiproc"))

WHOLE: Final = """
host = "127.0.0.1"
port = 9200
multiproc_dir = "var/prom_multiproc"
allow_labels = ["desk", "leg"]
audit_interval_seconds = 15
log = { max_bytes = "1M", backups = 3 }
[gates]
deny = ["ACME_LIVE", "ACME_GO*"]
[session.paper]
command = ["python", "a.py"]
count = 3
restart = "on-failure"
start_after = ["db", "ai"]
limits = { nofile = 64, as = "2G", nproc = "unlimited" }
env = { A = "1", B = 'x' }
[session.db]
command = "python 'b c.py'"
ready = { http = "http://127.0.0.1:1/x", timeout_seconds = 2.5 }
success_exit_codes = [0, 3]
stop_signal = "SIGINT"
stop_timeout_seconds = 3
[session."old.one"]
command = \"\"\"
python
old.py\"\"\"
mode = "A"
port = 9112
[exporter.ai]
command = "x"
port = 9110
path = "/m"
"""
COMMENTED: Final = "\n".join(
    line.removeprefix("# ") if " = " in line or line.startswith("# [") else line
    for line in EXAMPLE.splitlines()
    if not line.startswith('# command = "python my_session')  # it is there twice
)
CORPUS: Final = (WHOLE, EXAMPLE, COMMENTED, "port = 9111\n", "[session.a]\ncommand = 'x'\n")
VALUES: Final = (
    *("3", "-1", "0", "0x" + "f" * 6000, "1e400", "nan", "true", "1979-05-27T07:32:00Z"),
    *("''", '"\\u0000"', '"\\u001b[31m"', "'a b'", "'../x'", '"' + "y" * 5000 + '"'),
    *("[]", "[[]]", "[1, 'a']", "['a', 'a']", "{}", "{ a = 1 }", "{ port = 1 }"),
    *("[" * 40 + "]" * 40, "'''\nport = 3\n[session.x]\n'''", "'ünï', 'ähm'", "\udcff"),
)
KEYS: Final = (*TOP_KEYS, *SESSION_KEYS, *EXPORTER_KEYS, *LIMITS, "a\\nb", '"a.b"', "'", "ä")
PIECES: Final = ("\0", "\n", "]", "[", '"""', "'''", "'", '"', "#", "=", ".", "{", "}", ",", "\\")


def damage(text: str, rng: random.Random) -> str:
    """Damage a file in one to four places, in ways that a hand, an editor or a disk might."""
    for _ in range(rng.randint(1, 4)):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        match rng.randrange(9):
            case 0:
                lines[at] = lines[at].partition("=")[0] + "= " + rng.choice(VALUES)
            case 1:
                lines[at] = f"{rng.choice(KEYS)} = {rng.choice(VALUES)}"
            case 2:
                lines.insert(at, rng.choice(lines))
            case 3:
                del lines[at]
            case 4:
                lines[at] = (
                    f"[{rng.choice(('session', 'exporter', 'gates', ''))}.{rng.choice(KEYS)}]"
                )
            case 5:
                place = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:place] + rng.choice(PIECES) + lines[at][place:]
            case 6:
                lines = lines[: at + 1]
            case 7:
                lines[at] = lines[at].replace(rng.choice("paobe"), rng.choice("xyz9-_"), 1)
            case _:
                lines[at] = rng.choice(KEYS) + rng.choice(
                    ("", " =", "." + rng.choice(KEYS) + " = 1")
                )
        text = "\n".join(lines)
    return text


def build(text: str) -> Config:
    path = Path("/desk/ptsup.toml")
    found = parse_toml(text, path, dict.fromkeys(find_env_files(text, path), "A=1\nB='x'"))
    return build_config(Flags(), found, FALLBACK, path.parent)


def _read(read: Callable[[], Config]) -> Config | UsageError:
    try:
        return read()
    except UsageError as error:
        return error


def check(read: Callable[[], Config], shown: object) -> str:
    """Read one: it is a Config that holds together, or refused in one line; gives the line."""
    began = time.thread_time()
    result = _read(read)
    assert time.thread_time() - began < SLOWEST_SECONDS, shown
    if isinstance(result, UsageError):
        assert result.message.isprintable(), shown
        assert len(result.message + result.hint) < 2000, shown
        assert result.exit_code == 2
        return result.message
    for spec in result.members:
        assert parse_session_document(build_document(spec)).policy == spec.policy
    assert not diff_specs(result.members, result.members).changed
    return ""


def test_every_damaged_file_is_read_or_refused_in_one_clear_line(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    said: dict[str, int] = {}
    path = tmp_path / "ptsup.toml"
    for text in CORPUS[:3]:
        assert check(lambda text=text: build(text), text) == ""  # type: ignore[misc]
    for number in range(FILES):
        text = damage(rng.choice(CORPUS), rng)
        if number % 4:
            line = check(lambda text=text: build(text), text)  # type: ignore[misc]
        else:
            data = bytearray(text.encode(errors="surrogateescape"))
            for _ in range(rng.randrange(3)):
                data.insert(rng.randrange(len(data) + 1), rng.randrange(256))
            path.write_bytes(data)
            line = check(
                lambda: build_config(Flags(), read_config_file(path), FALLBACK, tmp_path), data
            )
        said[line] = said.get(line, 0) + 1
    refused = {line: count for line, count in said.items() if line}
    where = [line for line in refused if "ptsup.toml:" in line or line.startswith("cannot read")]
    print(
        f"{FILES} files: {said.get('', 0)} read, {FILES - said.get('', 0)} refused, "
        f"{len(refused)} different lines, {len(where)} of them with file and line"
    )
    assert len(refused) > FILES // 20
    assert len(where) == len(refused), sorted(set(refused) - set(where))[:10]
