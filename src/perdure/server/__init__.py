"""Servers beside a node: the health port, for orchestrators and autoscalers."""

from __future__ import annotations

from perdure.server.health import HealthPort

__all__ = ["HealthPort"]
