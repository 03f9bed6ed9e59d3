"""Small statistics over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
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

    values: Mapping[int, float]
    """By round: some rounds may have given none."""

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a summary of nothing")

    @property
    def median(self) -> float:
        return statistics.median(self.values.values())

    @property
    def lowest(self) -> float:
        return min(self.values.values())

    @property
    def highest(self) -> float:
        return max(self.values.values())

    @property
    def rounds(self) -> int:
        return len(self.values)

    def over(self, other: Summary) -> float:
        """The median ratio of the rounds that both have: figures of one round met the same mood of the machine."""
        shared = sorted(set(self.values) & set(other.values))
        if not shared:
            raise KeyError("no round has both figures")
        return statistics.median(self.values[number] / other.values[number] for number in shared)


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
