"""The session API: count what a session does, for Prometheus, without ever being in its way.

Importing it touches nothing: no environment, no file, not prometheus_client.
"""

from __future__ import annotations

from telemetry.metrics import (
    ensure_registered,
    inc_risk_block,
    inc_risk_check,
    inc_strategy_decision,
    inc_strategy_signal,
    set_risk_limit_utilization,
    set_strategy_position_gross_exposure,
    start_session_http,
)

__all__ = [
    "ensure_registered",
    "inc_risk_block",
    "inc_risk_check",
    "inc_strategy_decision",
    "inc_strategy_signal",
    "set_risk_limit_utilization",
    "set_strategy_position_gross_exposure",
    "start_session_http",
]
