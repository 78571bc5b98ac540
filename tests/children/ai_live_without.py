"""Runs the AI live exporter as if a package were not installed.

usage: ai_live_without.py PACKAGE [AI-LIVE-OPTION...]
"""

from __future__ import annotations

import runpy
import sys

# Python's own way to say that a package cannot be imported.
sys.modules[sys.argv[1]] = None  # type: ignore[assignment]
sys.argv[1:] = sys.argv[2:]
runpy.run_module("telemetry.ai_live", run_name="__main__", alter_sys=True)
