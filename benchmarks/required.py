"""What Perdure must reach on two cores, as data: the report compares each line with the measured figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.summary import Summary, significant

Key = tuple[str, str, str]
"""Contender, workload, metric."""
Measured = Mapping[Key, Summary]


@dataclass(frozen=True)
class Requirement:
    """One line of the table. `value` raises KeyError if something that it needs was not measured."""

    what: str
    unit: str
    direction: Literal["at least", "at most"]
    limit: float
    aim: float | None
    value: Callable[[Measured], float]

    def verdict(self, value: float) -> str:
        if not self.holds(value, self.limit):
            return "missed"
        return "met" if self.aim is None or not self.holds(value, self.aim) else "met, and the aim"

    def holds(self, value: float, limit: float) -> bool:
        return value >= limit if self.direction == "at least" else value <= limit

    def row(self, measured: Measured) -> list[str]:
        aim = "" if self.aim is None else significant(self.aim)
        wanted = [self.what, f"{self.direction} {significant(self.limit)} {self.unit}".strip(), aim]
        try:
            value = self.value(measured)
        except KeyError:
            return [*wanted, "", "not measured"]
        return [*wanted, f"{significant(value)} {self.unit}".strip(), self.verdict(value)]


def own(workload: str, metric: str) -> Callable[[Measured], float]:
    return lambda measured: measured["perdure", workload, metric].median


def over(workload: str, metric: str, other: Key) -> Callable[[Measured], float]:
    return lambda measured: measured["perdure", workload, metric].over(measured[other])


SQLITE_COMMITS: Key = ("limits", "LIMITS", "sqlite_full_commits_per_s")
DBOS_W1: Key = ("dbos", "W1", "workflows_per_s")
DUROXIDE_P: Key = ("duroxide", "P", "workflows_per_s")

REQUIREMENTS = (
    Requirement(
        "W1 against DBOS on SQLite (WAL FULL)",
        "×",
        "at least",
        40,
        None,
        over("W1", "workflows_per_s", DBOS_W1),
    ),
    Requirement("W1", "workflows/s", "at least", 4000, 8000, own("W1", "workflows_per_s")),
    Requirement(
        "W2, 1 chain, of SQLite's single-row FULL commits",
        "%",
        "at least",
        45,
        60,
        lambda measured: 100 * over("W2", "one_steps_per_s", SQLITE_COMMITS)(measured),
    ),
    Requirement(
        "W2, 20 chains", "steps/s", "at least", 8000, 12_000, own("W2", "many_steps_per_s")
    ),
    Requirement("W3", "activities/s", "at least", 15_000, 30_000, own("W3", "activities_per_s")),
    Requirement(
        "W4, last 100 steps over the first 100", "×", "at most", 1.2, 1.0, own("W4", "growth")
    ),
    Requirement(
        "W5, last start to all done", "s", "at most", 1.3, 1.05, own("W5", "after_last_start_s")
    ),
    Requirement("W6, node ready to all resumed", "s", "at most", 1, 0.2, own("W6", "resumed_s")),
    Requirement(
        "W7, 10,000 waiting: more than an empty node",
        "MB",
        "at most",
        100,
        50,
        own("W7", "more_mb"),
    ),
    Requirement("W7, cold start to ready", "s", "at most", 2, 0.5, own("W7", "cold_spawn_s")),
    Requirement(
        "Cold replay of 5,000 steps",
        "events/s",
        "at least",
        200_000,
        250_000,
        own("REPLAY", "events_per_s"),
    ),
    Requirement(
        "CPU per durable step, many in flight", "µs", "at most", 100, 60, own("CPU", "cpu_us")
    ),
    Requirement(
        "P against duroxide", "×", "at least", 10, None, over("P", "workflows_per_s", DUROXIDE_P)
    ),
    Requirement("Idle node", "% CPU", "at most", 0.1, 0, own("IDLE", "cpu_percent")),
)
