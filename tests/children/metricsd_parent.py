"""Starts metricsd with the given options, then waits to be killed."""

from __future__ import annotations

import signal
import subprocess
import sys

subprocess.Popen([sys.executable, "-P", "-m", "telemetry.metricsd", *sys.argv[1:]])
signal.pause()
