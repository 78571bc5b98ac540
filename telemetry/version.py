"""The version of ptsup: one place for the packages, the wheel and the page."""

__version__ = "0.1.0"
