"""Percentiles in constant memory, and the use of a process."""

from __future__ import annotations

import pytest

from perdure.bench.gauges import Gauges, Latencies, Use, cpu_seconds, resident_mb


def test_percentiles_are_at_most_one_percent_too_high() -> None:
    latencies = Latencies()
    for number in range(1, 10_001):
        latencies.add(number / 10)
    for percent, exact in ((1, 10), (50, 500), (95, 950), (99, 990), (100, 1000)):
        assert exact * 0.9999 <= latencies.percentile(percent) <= exact * 1.0101
    assert latencies.summary()["max"] == 1000


def test_the_highest_is_exact_and_limits_the_others() -> None:
    latencies = Latencies()
    latencies.add(7.3)
    assert latencies.summary() == {"p50": 7.3, "p95": 7.3, "p99": 7.3, "max": 7.3}


def test_nothing_measured_is_zero() -> None:
    assert Latencies().summary() == {"p50": 0, "p95": 0, "p99": 0, "max": 0}


def test_a_duration_of_nothing_is_counted() -> None:
    latencies = Latencies()
    latencies.add(0)
    assert (latencies.count, latencies.percentile(50)) == (1, 0)


@pytest.mark.parametrize(
    ("samples", "growth"),
    [([1, 5, 5, 6, 5, 6], 0), ([1, 2, 3, 4, 5, 6], 2), ([9, 9, 8, 8, 7, 7], -1), ([1, 2], 0)],
)
def test_growth_compares_the_last_third_with_the_one_before(
    samples: list[float], growth: float
) -> None:
    gauges = Gauges()
    gauges._memory = samples
    assert gauges.use() == Use(samples[0], max(samples), growth, 0, 0)


async def test_the_processor_and_the_memory_of_this_process_are_seen() -> None:
    block: list[bytes] = []
    async with Gauges() as gauges:
        began = cpu_seconds()
        while cpu_seconds() - began < 0.05:
            block.append(bytes(2_000_000))
        before = resident_mb()
    use = gauges.use()
    assert 0 < use.cpu_percent <= use.cpu_peak_percent
    assert use.rss_peak_mb >= before > use.rss_before_mb
