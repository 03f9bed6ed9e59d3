"""A crash at any point changes no outcome: each scenario, at every commit and every effect."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from perdure.testing.crash import (
    LifeServer,
    Scenario,
    crash_in_process,
    crash_in_processes,
    crash_repeatedly,
)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import scenarios  # noqa: E402  # a file beside this one, which other processes load by its path

NAMES = sorted(name for name, value in vars(scenarios).items() if isinstance(value, Scenario))
CRASHES = int(os.environ.get("PERDURE_CRASHES", "0"))
"""Real kills of the long variant, instead of those of PERDURE_LONG_SECONDS. 10,000 take about an hour."""
EVERY = 5
"""Real kills are slower: each scenario gets each fifth point, and not all the same ones."""


def scenario(name: str) -> Scenario:
    found = getattr(scenarios, name)
    assert isinstance(found, Scenario)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_crash_at_any_point_changes_nothing(name: str) -> None:
    report = crash_in_process(scenario(name))
    assert report.crashes >= 15


@pytest.mark.parametrize("name", NAMES)
def test_kill_9_and_another_hash_seed_change_nothing(
    name: str, servers: Sequence[LifeServer]
) -> None:
    first = 3 + NAMES.index(name) % EVERY  # the first two points are the claim
    report = crash_in_processes(
        f"{HERE / 'scenarios.py'}:{name}", every=EVERY, first=first, servers=servers
    )
    assert report.crashes >= 2


@pytest.mark.parametrize("name", NAMES)
def test_crash_after_crash_after_crash_changes_nothing(name: str) -> None:
    report = crash_repeatedly(scenario(name))
    assert report.crashes >= 5


@pytest.mark.long
@pytest.mark.timeout(600 + 2 * CRASHES)
def test_kill_9_at_every_point_changes_nothing(
    servers: Sequence[LifeServer], long_seconds: float
) -> None:
    crashes = 0
    until_s = time.monotonic() + long_seconds
    for name in itertools.cycle(NAMES):
        crashes += crash_in_processes(f"{HERE / 'scenarios.py'}:{name}", servers=servers).crashes
        through = crashes >= CRASHES if CRASHES else time.monotonic() > until_s
        if through:
            break
    assert crashes >= 15
