"""A crash at any point of any example changes no outcome. An example that is not covered is an error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from perdure.testing.crash import LifeServer, crash_in_process, crash_in_processes

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from example_scenarios import EXAMPLES, SCENARIOS, WITHOUT  # noqa: E402  # a file beside this one

ONLY_KILLED = {
    "plain_functions": "it starts a pool of processes, which takes its time",
    "anyio_groups": "streams of a workflow that leaves memory complain when they are collected, which pytest notices",
}
SLEEPY = {"backoffs", "deadline", "greetings", "heartbeats"}
"""These wait for real time: each fourth point."""


def test_every_example_is_covered() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SCENARIOS.keys() | WITHOUT.keys()
    assert not SCENARIOS.keys() & WITHOUT.keys()


@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - ONLY_KILLED.keys()))
def test_a_crash_at_any_point_of_an_example_changes_nothing(name: str) -> None:
    assert crash_in_process(SCENARIOS[name], every=4 if name in SLEEPY else 1).crashes >= 5


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_kill_9_in_an_example_changes_nothing(name: str, servers: Sequence[LifeServer]) -> None:
    first = 4 + sum(name.encode()) % 3  # not the same points in each
    report = crash_in_processes(
        f"{HERE / 'example_scenarios.py'}:{name}", every=9, first=first, servers=servers
    )
    assert report.crashes >= 1
