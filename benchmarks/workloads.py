"""What is measured: the workloads, their sizes, and the figures that each gives.

A peer that is slow gets less of the same where its speed does not depend on the size, so that a run stays short; the
report says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Sizes = Mapping[str, float]


@dataclass(frozen=True)
class Metric:
    """One figure of a workload; `better` says which direction is good, and None that it is only information."""

    key: str
    title: str
    better: Literal["higher", "lower"] | None


@dataclass(frozen=True)
class Workload:
    """One thing to do, the same for all engines except for its size."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    sizes: Sizes
    smaller: Mapping[str, Sizes] = field(default_factory=dict)
    """Per engine: what differs from `sizes`."""
    quick: Sizes = field(default_factory=dict)
    """What differs in a quick run, for all engines."""
    peer_rounds: int = 3
    """At most this many rounds for the peers: some of them need minutes."""

    def sizes_for(self, family: str, *, quick: bool) -> dict[str, float]:
        sizes = dict(self.sizes) | dict(self.smaller.get(family, {}))
        if quick:
            sizes |= {key: min(value, sizes[key]) for key, value in self.quick.items()}
        return sizes


# LIMITS stands beside W1 and W2, which are judged against it and against DBOS.
WORKLOADS = (
    Workload(
        "W1",
        "one-activity workflows, 100 in flight; then one at a time",
        (
            Metric("workflows_per_s", "workflows/s", "higher"),
            Metric("p50_ms", "one at a time, p50 ms", "lower"),
            Metric("p99_ms", "one at a time, p99 ms", "lower"),
            Metric("cpu_us", "CPU µs per workflow", "lower"),
        ),
        {"workflows": 1000, "in_flight": 100, "singles": 200},
        {"dbos": {"workflows": 500, "singles": 100}, "duroxide": {"workflows": 500, "singles": 50}},
        {"workflows": 200, "singles": 20},
    ),
    Workload(
        "W2",
        "one chain of activities; 20 chains side by side",
        (
            Metric("one_steps_per_s", "1 chain, steps/s", "higher"),
            Metric("many_steps_per_s", "20 chains, steps/s", "higher"),
        ),
        {"steps_alone": 100, "chains": 20, "steps": 100},
        {"dbos": {"steps": 50}, "duroxide": {"steps": 20}},
        {"steps_alone": 50, "steps": 10},
    ),
    Workload(
        "LIMITS",
        "what the machine can do",
        (
            Metric("fdatasync_append_per_s", "fdatasync of 4 KiB, append, per s", None),
            Metric("fdatasync_overwrite_per_s", "fdatasync of 4 KiB, overwrite, per s", None),
            Metric(
                "sqlite_full_commits_per_s",
                "SQLite, 1 row per transaction, WAL FULL, commits/s",
                None,
            ),
            Metric(
                "sqlite_normal_commits_per_s",
                "SQLite, 1 row per transaction, WAL NORMAL, commits/s",
                None,
            ),
            Metric(
                "sqlite_full_rows_per_s", "SQLite, 100 rows per transaction, WAL FULL, rows/s", None
            ),
            Metric("call_soon_per_s", "asyncio, callbacks/s", None),
            Metric("future_resume_per_s", "asyncio, resumes of a task/s", None),
            Metric("create_task_per_s", "asyncio, new tasks/s", None),
        ),
        {"seconds": 1},
        {},
        {"seconds": 0.2},
    ),
    Workload(
        "W3",
        "one workflow, parallel activities",
        (Metric("activities_per_s", "activities/s", "higher"),),
        {"width": 1000},
        {},
        {"width": 200},
    ),
    Workload(
        "W4",
        "one long chain: ms per step, first 100 and last 100",
        (
            Metric("first_ms", "first 100, ms/step", "lower"),
            Metric("last_ms", "last 100, ms/step", "lower"),
            Metric("growth", "last / first", "lower"),
        ),
        {"steps": 5000},
        {"dbos": {"steps": 2000}, "duroxide": {"steps": 600}},
        {"steps": 200},
        peer_rounds=2,
    ),
    Workload(
        "W5",
        "workflows that sleep 1 s",
        (
            Metric("after_last_start_s", "last start to all done, s", "lower"),
            Metric("wall_s", "first start to all done, s", "lower"),
        ),
        {"workflows": 1000, "in_flight": 100, "seconds": 1},
        {},
        {"workflows": 100},
        peer_rounds=2,
    ),
    Workload(
        "W6",
        "200 workflows half-way through a chain of 10, `kill -9`, restart",
        (
            Metric("midway", "half-way at the kill", None),
            Metric("resumed", "resumed after it", None),
            Metric("resumed_s", "node ready to all resumed, s", "lower"),
            Metric("finished_s", "process spawned to all finished, s", "lower"),
        ),
        {"workflows": 200, "steps": 10},
        {},
        {"workflows": 50, "steps": 6},
        peer_rounds=1,
    ),
    Workload(
        "W7",
        "workflows that wait for a message, then a cold start with them on disk",
        (
            Metric("workflows", "waiting workflows", None),
            Metric("more_mb", "MB more than an empty node", None),
            Metric("each_kb", "KB each", "lower"),
            Metric("idle_cpu_percent", "CPU % while they wait", "lower"),
            Metric("cold_open_s", "cold start, node opened to ready, s", "lower"),
            Metric("cold_spawn_s", "cold start, process spawned to ready, s", "lower"),
            Metric("cold_answer_s", "cold start, process spawned to one answered, s", "lower"),
        ),
        {"workflows": 10_000, "settle_s": 2, "idle_s": 3},
        {"dbos": {"workflows": 1000}, "duroxide": {"workflows": 1000}},
        {"workflows": 200, "settle_s": 1, "idle_s": 1},
        peer_rounds=1,
    ),
    Workload(
        "REPLAY",
        "cold replay of a long history from the file, decoding included",
        (Metric("events_per_s", "events/s", "higher"), Metric("replay_ms", "ms in all", None)),
        {"steps": 5000, "settle_s": 0.5, "from_open": 0},
        {"dbos": {"steps": 1000, "from_open": 1}, "duroxide": {"steps": 300}},
        {"steps": 200},
        peer_rounds=1,
    ),
    Workload(
        "CPU",
        "processor time per durable step, many in flight",
        (Metric("cpu_us", "CPU µs per step", "lower"), Metric("steps_per_s", "steps/s", "higher")),
        {"chains": 100, "steps": 100},
        {"dbos": {"steps": 10}, "duroxide": {"steps": 5}},
        {"steps": 5},
        peer_rounds=2,
    ),
    Workload(
        "IDLE",
        "a node with nothing to do",
        (
            Metric("cpu_percent", "CPU %", "lower"),
            Metric("switches_per_s", "voluntary context switches/s", "lower"),
        ),
        {"settle_s": 2, "seconds": 5},
        {},
        {"settle_s": 1, "seconds": 1},
        peer_rounds=1,
    ),
    Workload(
        "P",
        "duroxide's own stress test: 20 outstanding workflows of 5 activities that take 10 ms, for 10 s",
        (
            Metric("workflows_per_s", "workflows/s", "higher"),
            Metric("p50_ms", "p50 ms", "lower"),
            Metric("p99_ms", "p99 ms", "lower"),
        ),
        {"outstanding": 20, "width": 5, "seconds": 10},
        {},
        {"seconds": 1},
    ),
)

BY_NAME = {workload.name: workload for workload in WORKLOADS}
