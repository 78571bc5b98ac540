"""The process supervisor. It starts, watches and stops; it never reads a metric."""

__version__ = "0.1.0"
