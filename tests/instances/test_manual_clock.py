"""The public test clock stands still until it is moved, and makes its calls in the order of their times."""

from __future__ import annotations

import asyncio

import pytest

from perdure.testing import ManualClock


async def test_calls_are_made_in_the_order_of_their_times_at_their_times() -> None:
    clock = ManualClock(1_000)
    seen: list[tuple[str, int]] = []
    for name, at in (("c", 1_300), ("a", 1_100), ("b", 1_200), ("late", 1_301)):
        clock.call_at(at, lambda name=name: seen.append((name, clock.now_ms())))
    clock.advance(300)
    assert seen == [("a", 1_100), ("b", 1_200), ("c", 1_300)]
    assert clock.now_ms() == 1_300


async def test_what_is_due_already_is_called_soon_and_not_at_once() -> None:
    clock = ManualClock()
    seen: list[int] = []
    clock.call_at(clock.now_ms(), lambda: seen.append(1))
    assert seen == []
    await asyncio.sleep(0)
    assert seen == [1]


async def test_a_call_made_by_a_call_is_made_in_the_same_advance() -> None:
    clock = ManualClock(0)
    seen: list[int] = []

    def again() -> None:
        seen.append(clock.now_ms())
        clock.call_at(clock.now_ms() + 10, again)

    clock.call_at(10, again)
    clock.advance(35)
    assert seen == [10, 20, 30]


async def test_a_cancelled_call_is_not_made() -> None:
    clock = ManualClock()
    seen: list[int] = []
    alarm = clock.call_at(clock.now_ms() + 10, lambda: seen.append(1))
    alarm.cancel()
    soon = clock.call_at(clock.now_ms(), lambda: seen.append(2))
    soon.cancel()
    clock.advance(10)
    await asyncio.sleep(0)
    assert seen == []


async def test_one_can_wait_until_somebody_waits() -> None:
    clock = ManualClock()
    waiting = asyncio.create_task(clock.until_armed(100))
    far = clock.call_at(clock.now_ms() + 101, lambda: None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    near = clock.call_at(clock.now_ms() + 50, lambda: None)
    assert await asyncio.wait_for(waiting, 30) == 50
    near.cancel()
    far.cancel()
    clock.call_at(clock.now_ms() + 70, lambda: None)
    assert await clock.until_armed(100) == 70


async def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="go back"):
        ManualClock().advance(-1)
