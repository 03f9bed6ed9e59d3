"""Correct use of the test kit: neither checker finds an error, and each type is as asserted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type
from unittest.mock import AsyncMock

from good_workflows import app, charge, resize, small

from perdure import testing
from perdure.testing import ActivityRecord, SkippingClock, VirtualNode, WaitsForever


async def fake_charge(card: str, cents: int) -> str:
    return card


def plain_charge(card: str, cents: int) -> str:
    return card


def fake_resize(path: str, width: int = 100) -> bytes:
    return path.encode()


async def uses() -> None:
    clock = SkippingClock(datetime(2026, 1, 1, tzinfo=UTC), patience=0.5, limit=timedelta(days=1))
    async with testing.node(
        app, clock=clock, activities={charge: fake_charge, "resize": fake_resize}
    ) as node:
        assert_type(node, VirtualNode)
        assert_type(node.clock, SkippingClock)
        assert_type(node.replace(charge, plain_charge), VirtualNode)
        node.replace(resize, fake_resize)
        node.replace(charge, fake_charge).replace("ship", AsyncMock())
        assert_type(await node.client.workflow(small, id="s").run(3), int)
        assert_type(await node.calls(charge, id="s"), list[ActivityRecord])
        assert_type((await node.calls())[0].arguments, dict[str, object])
        await node.clock.sleep(60)
        await node.clock.sleep(timedelta(days=30))
        assert_type(node.clock.now(), datetime)
        with node.clock.held():
            await node.restart()
        async with node.clock.waiting("an answer"):
            pass
    error: Any = WaitsForever("why")
    assert isinstance(error, AssertionError)
