"""The file that `ptsup init` writes: one that starts as it stands, the rest as comments.

Pure: text. A test reads it, and every line that is commented out.
"""

from __future__ import annotations

from typing import Final

EXAMPLE: Final = """\
# ptsup.toml: what `ptsup start` starts. docs/config.md explains every key.
# After a change: `ptsup reload`.

# port = 9111                                   # of the page that Prometheus scrapes
# host = "0.0.0.0"                              # Prometheus may come from a container
# multiproc_dir = ".ops_local/prom_multiproc"
# allow_labels = ["desk"]                       # labels the page may carry besides its own
# audit_interval_seconds = 15
# log = { max_bytes = "16M", backups = 5 }      # of all that say nothing else

# [gates]
# deny = ["ACME_LIVE", "ACME_GO*"]              # refused besides what ptsup refuses anyway

# A session: any program. With Python's `telemetry` package it counts on the one page.
[session.paper]
command = ["sleep", "3600"]                     # put yours here: ["python", "my_session.py"]
# command = "python my_session.py --fast"       # or as one string, split like a shell would
# cwd = "."                                     # this file's folder
restart = "on-failure"                          # no | on-failure | always
# stop_signal = "TERM"
stop_timeout_seconds = 75                       # then it is killed
# env_file = "paper.env"                        # lines of NAME=VALUE; nothing of it is written down
# count = 3                                     # paper-1, paper-2, paper-3
# start_after = ["ai_live"]                     # once that runs, and is ready
# ready = { http = "http://127.0.0.1:8080/healthz", timeout_seconds = 60 }
# success_exit_codes = [0]
# stable_seconds = 10                           # after so long it is restarted at once
# backoff_seconds = 0.5
# backoff_limit_seconds = 30
# failure_limit = 5                             # with one more within the window it is fatal
# failure_window_seconds = 60
# limits = { nofile = 4096, core = 0 }
# log = { max_bytes = "16M", backups = 5 }
# env = { PEAK_TRADE_SERVICE = "paper" }

# A legacy session that serves its own metrics, on a port of its own.
# [session.legacy]
# command = ["python", "old_session.py"]
# mode = "A"
# port = 9112

# A companion with a page of its own: restarted for ever, ready when its port answers.
# [exporter.ai_live]
# command = ["python", "-m", "telemetry.ai_live", "--from-start"]
# port = 9110
# path = "/metrics"
# env = { PEAK_TRADE_AI_EVENTS_JSONL = "ai_events.jsonl" }
"""
