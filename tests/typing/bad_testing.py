"""Wrong use of the test kit: both checkers find an error in each marked line, and in no other line."""

from __future__ import annotations

from good_testing import fake_charge, fake_resize
from good_workflows import app, charge, resize

from perdure import testing


async def other_types(card: int, cents: str) -> str:
    return cents


async def uses() -> None:
    async with testing.node(app, activities={charge: "paid"}) as node:  # E a constant is no fake
        node.replace(charge, other_types)  # E other types
        node.replace(charge, "paid")  # E a constant is no fake
        node.replace(5, fake_charge)  # E neither an activity nor a name
        node.replace(resize, fake_resize, name="r")  # E unknown keyword
        await node.calls(5)  # E neither an activity nor a name
        await node.calls(charge, id=3)  # E id is a string
        node.clock.sleep(3)  # E forgotten await
        await node.clock.sleep("3")  # E wrong type
        x: float = node.clock.now()  # E a datetime
        async with node.clock.held():  # E not an async one
            pass
        async with node.clock.waiting():  # E for what?
            pass
    testing.SkippingClock("2026-01-01")  # E wrong type
