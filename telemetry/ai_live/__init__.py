"""The AI live exporter: `python -m telemetry.ai_live` counts the events of a JSONL file.

Watch-only. It reads one file and serves one page; what is in the file it neither keeps nor acts on.
"""
