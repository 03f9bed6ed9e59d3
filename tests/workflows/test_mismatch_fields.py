"""A report of a mismatch names the field that differs, with both values."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from uuid import UUID

import pytest
from engine import World, waits_for

from perdure import App, workflow
from perdure.errors import Suspended


@dataclass
class Order:
    id: UUID
    tags: list[str] | None


@pytest.mark.parametrize("field", ["id", "tags", "tags[1]"])
async def test_the_field_of_the_input_is_named_with_both_values(
    world: World, app: App, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Order] = []

    @app.activity
    async def save(order: Order) -> None: ...

    @app.workflow(guard="off")
    async def take() -> None:
        fixed = UUID(int=1)
        order = Order(uuid.uuid4(), ["a"])
        if field == "tags[1]":
            order = Order(fixed, ["a", *(["b"] * len(made))])
        if field == "tags":
            order = Order(fixed, ["a"] if made else None)
        made.append(order)
        await save(order)
        await workflow.receive("go", bool)

    async with world.node(app) as node:
        handle = node.client.workflow(take, id="t")
        await handle.start()
        await waits_for(handle, "message go")
    async with world.node(app) as node:
        await node.client.get("t").send("go", True)
        with pytest.raises(Suspended) as caught:
            await node.client.get("t").result(timeout=30)
    failure = caught.value.failure
    ((_, cause),) = failure.causes
    if field == "id":
        # Each try of the replay makes another id.
        texts = [f"id is '{made[0].id}' in the journal and '{n.id}' in the code" for n in made[1:]]
    elif field == "tags":
        texts = ["tags is None in the journal and a list of 1 in the code"]
    else:
        texts = ["tags[1] is not there in the journal and 'b' in the code"]
    assert any(cause.endswith(each) for each in texts)
    assert cause in str(caught.value)
    assert f"{field} differs. Remedy: " in failure.message
    assert "Or the code reads a clock or chance: use workflow.now()" in failure.message
    # The values may be secrets, and logs go far.
    logged = [r.getMessage() for r in caplog.records if "is suspended" in r.getMessage()]
    assert logged
    assert not any(" in the journal and " in text for text in logged)
