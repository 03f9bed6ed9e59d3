"""The way of one message stays as short as it is. A longer one shows here before a clock could tell."""

from __future__ import annotations

from benchmarks.steps import send

CALLS = 90
RETURNS = 44
"""To files that were left before. 15 are required, so this bound moves down only."""


async def test_a_message_to_an_instance_in_memory_takes_no_more_steps_than_before() -> None:
    steps = await send()
    ways = "\n".join("  " * depth + call for depth, call in steps.calls)
    assert len(steps.calls) <= CALLS, ways
    assert steps.returns <= RETURNS, ways
