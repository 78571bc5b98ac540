"""The process supervisor. It starts, watches and stops; it never reads a metric."""

from telemetry.version import __version__

__all__ = ["__version__"]
