"""What keeps the supervisor itself running: a systemd unit, a launchd property list.

Pure: text. docs/supervised.md says why each line is as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from supervisor.config import METRICSD_POLICY, Policy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.config import SessionSpec

# The longest drain there is, then the second in which who was killed is gone, and some to spare.
_DRAIN_SECONDS: Final = 20
_SPARE_SECONDS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What a unit has to say. Paths are absolute."""

    program: str
    cwd: str
    run_dir: str
    log: str
    stop_seconds: int


def find_stop_seconds(sessions: Iterable[SessionSpec]) -> int:
    """Find how long an orderly stop of all may take."""
    longest = max(
        [Policy().stop_timeout_seconds, *(s.policy.stop_timeout_seconds for s in sessions)]
    )
    own = METRICSD_POLICY.stop_timeout_seconds
    return int(min(longest, 1e9) + own) + _DRAIN_SECONDS + _SPARE_SECONDS


def render_systemd(unit: Unit) -> str:
    """Render a unit for systemd, of the system or of a user."""
    return f"""\
[Unit]
Description=ptsup: shadow/paper trading sessions and their metrics
# However often it crashes, it is started again.
StartLimitIntervalSec=0

[Service]
# Ready when metricsd answers and every session has been spawned.
Type=notify
ExecStart={_quote(unit.program)} start --run-dir {_quote(unit.run_dir)}
ExecReload={_quote(unit.program)} reload --run-dir {_quote(unit.run_dir)}
WorkingDirectory={unit.cwd.replace("%", "%%")}
# A crash of the supervisor ends no session: the next one adopts them.
KillMode=process
Restart=always
RestartSec=1
WatchdogSec=30
# A session that the kernel kills for its memory stops nothing else.
OOMPolicy=continue
# Above the largest stop timeout and the drain, so that a stop is never cut short.
TimeoutStopSec={unit.stop_seconds}
# No PrivateTmp and no RuntimeDirectory: what they hold goes with the supervisor.

[Install]
WantedBy=default.target
"""


def _quote(word: str) -> str:
    """Quote a word of a command line for systemd, which also expands % and $ in it."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped.replace("%", "%%").replace("$", "$$")}"'


def render_launchd(unit: Unit) -> str:
    """Render a property list for launchd."""
    arguments = (unit.program, "start", "--run-dir", unit.run_dir)
    words = "\n".join(f"    <string>{_escape(word)}</string>" for word in arguments)
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" \
"http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>ptsup</string>
  <key>ProgramArguments</key>
  <array>
{words}
  </array>
  <key>WorkingDirectory</key>
  <string>{_escape(unit.cwd)}</string>
  <key>RunAtLoad</key>
  <true/>
  <!-- However often it crashes, it is started again. -->
  <key>KeepAlive</key>
  <true/>
  <key>ThrottleInterval</key>
  <integer>1</integer>
  <!-- A crash of the supervisor ends no session: the next one adopts them. -->
  <key>AbandonProcessGroup</key>
  <true/>
  <!-- Above the largest stop timeout and the drain, so that a stop is never cut short. -->
  <key>ExitTimeOut</key>
  <integer>{unit.stop_seconds}</integer>
  <key>StandardOutPath</key>
  <string>{_escape(unit.log)}</string>
  <key>StandardErrorPath</key>
  <string>{_escape(unit.log)}</string>
</dict>
</plist>
"""


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
