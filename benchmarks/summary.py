"""Small statistics over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value that is at least as large as `percent` of all of them."""
    if not values:
        raise ValueError("a percentile of nothing")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


@dataclass(frozen=True)
class Summary:
    """One figure over several rounds."""

    median: float
    lowest: float
    highest: float
    rounds: int


def summarise(values: Sequence[float]) -> Summary:
    if not values:
        raise ValueError("a summary of nothing")
    return Summary(statistics.median(values), min(values), max(values), len(values))


def significant(value: float, digits: int = 3) -> str:
    """A figure with `digits` significant digits, thousands separated, without exponent: 12345.6 -> 12,300."""
    if value == 0:
        return "0"
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if magnitude >= digits:
        factor = 10 ** (magnitude - digits)
        return f"{round(value / factor) * factor:,}"
    text = f"{value:.{digits}g}"
    return f"{float(text):.10f}".rstrip("0").rstrip(".")
