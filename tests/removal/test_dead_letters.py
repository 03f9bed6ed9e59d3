"""A message for an id that no instance has is not lost without a word: the node says so, and it can be listed."""

from __future__ import annotations

import logging

import pytest
from engine import World, until

from perdure import App, Client, NodeOptions, workflow
from perdure.errors import UsageError
from perdure.node import Node

DAY_MS = 24 * 3600 * 1000


async def test_it_is_logged_once_and_listed(
    world: World, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    clock = world.stop_time()

    @app.workflow
    async def writes() -> None:
        for n in range(7):
            workflow.send(f"nobody-{n}", "news", n)

    options = NodeOptions(sweep_ms=5)
    with caplog.at_level(logging.WARNING, logger="perdure.node"):
        async with Node(app, world.store, clock=clock, options=options) as node:
            await node.client.workflow(writes, id="writer").run()
            assert await node.client.dead_letters() == []
            clock.advance(DAY_MS + 1)

            async def are_listed() -> bool:
                return len(await node.client.dead_letters()) == 7

            await until(are_listed, "the dead letters")
            letters = await node.client.dead_letters(limit=3)
            assert [(one.unit, one.kind, one.sender) for one in letters] == [
                (f"nobody-{n}", "Send", "writer") for n in range(3)
            ]
            assert letters[0].at < letters[0].expires_at
            assert len(await node.client.dead_letters(unit="nobody-5")) == 1
            assert len(await node.client.dead_letters(limit=None)) == 7
    said = [
        record.getMessage() for record in caplog.records if "dead letters" in record.getMessage()
    ]
    assert len(said) == 1
    assert said[0].startswith("7 messages waited in vain for instances that do not exist")
    assert "'nobody-0', 'nobody-1', 'nobody-2', 'nobody-3', 'nobody-4', ..." in said[0]


@pytest.mark.parametrize("key", ["a\0b", "\ud800", "half \udfff"])
async def test_no_text_that_a_store_cannot_hold_gets_in(world: World, app: App, key: str) -> None:
    @app.workflow
    async def keeps() -> str:
        try:
            workflow.kv.set(key, 1)
        except UsageError as error:
            return str(error)
        return "it was taken"

    @app.workflow
    async def goes_on() -> int:
        workflow.kv.set("fine \U0001f600", 1)
        return 1

    async with Node(app, world.store) as node:
        said = await node.client.workflow(keeps, id="a").run()
        assert "cannot be a KV key" in said
        assert await node.client.workflow(goes_on, id="b").run() == 1
        client: Client = node.client
        with pytest.raises(UsageError, match="NUL or a lone surrogate"):
            await client.get("a").kv_get(key, int)
        for name in ("type", "reason", "id_prefix", "parent"):
            with pytest.raises(UsageError, match=name):
                await client.list(**{name: key})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="cannot be the name of a node"):
        Node(app, "memory://", name=key)
