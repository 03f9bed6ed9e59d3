"""`pin` and `unpin`, on a PostgreSQL store that nodes share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from invocation import Cli
from postgres_server import server_url
from postgres_stores import FreshStore, Schemas

from perdure import App, Node, workflow
from perdure.store import open_store


@pytest.fixture
def schema() -> Iterator[str]:
    schemas = Schemas()
    yield schemas.take()
    schemas.give_back()


async def test_an_instance_of_a_cluster_is_pinned_to_a_node_and_released(
    cli: Cli, schema: str
) -> None:
    url = f"{server_url()}?schema={schema}"
    app = App("pinned")

    @app.workflow
    async def waits() -> int:
        return await workflow.receive("go", int)

    async with FreshStore(schema, 8):
        pass
    async with (
        open_store(url) as store,
        Node(app, store, name="north", listen="127.0.0.1:0") as node,
    ):
        handle = node.client.workflow(waits, id="order-1")
        await handle.start()
        # A node that has just joined may not own the scope yet. Then the start waits in the store.
        async with asyncio.timeout(30):
            while (await handle.describe()).status != "running":
                await asyncio.sleep(0.01)

        async def ask(*args: str, at: str = url) -> tuple[int, str]:
            ended = await asyncio.to_thread(cli, *args, "--store", at)
            return ended.code, ended.stdout + ended.stderr

        code, text = await ask("pin", "order-1", "--node", "north")
        assert (code, text) == (0, "pin: order-1 belongs to north now\n")
        assert "pin/default/node:north" in node.scopes
        front = f"perdure://{node.address}"
        code, text = await ask("pin", "order-1", "--node", "north", at=front)
        assert (code, "a client without a store cannot pin" in text) == (2, True)
        code, text = await ask("unpin", "order-1", at=front)
        assert (code, text) == (0, "unpin: order-1 belongs to no node in particular now\n")
        code, text = await ask("pin", "nobody", "--node", "north")
        assert (code, "no instance has the id 'nobody'" in text) == (3, True)


def test_the_owner_of_a_whole_file_takes_no_pins(cli: Cli) -> None:
    assert cli("start", "shop.py:double", "[1]", "--id", "order-1").code == 0
    refused = cli("pin", "order-1", "--node", "north")
    assert refused.code == 2
    assert "the node of this store owns all of it" in refused.stderr
