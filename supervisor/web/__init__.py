"""The watch-only page: a process of its own that looks, and can change nothing.

Every figure on it is one of `ptsup status --json` or of metricsd's page.
"""
