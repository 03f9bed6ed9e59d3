"""In custody only what is asked for is removed: nothing else of the store changes, nor what the next node learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure import App, Client, StillRunning, workflow
from perdure.client.custody import custody
from perdure.errors import StoreLocked
from perdure.ports.store import Incarnation
from perdure.store import open_store


@pytest.fixture
def app() -> App:
    """An app with a workflow that waits, and one that waits for it."""
    app = App("shop")

    @app.workflow
    async def wait(n: int) -> str:
        return await workflow.receive("go", str)

    @app.workflow
    async def parent() -> str:
        return await workflow.child(wait, id="child")(1)

    return app


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A file of its own."""
    return f"sqlite:///{tmp_path}/x.db"


async def test_what_is_not_removed_goes_on_as_before(app: App, url: str) -> None:
    async with app.node(url) as node:
        await node.client.workflow("parent", id="parent").start()
        await node.client.workflow("wait", id="other").start(2)
        await node.client.get("other").pause()
    async with open_store(url) as store, custody(store) as custodian:
        client = Client(custodian)
        with pytest.raises(StillRunning):
            await client.get("parent").delete()
        before = await client.get("other").describe()
        assert await client.get("parent").delete(force=True) == 2
        await client.get("other").prune(keep_last=1)
        assert await client.get("other").describe() == before
        await client.get("other").send("go", "posted")
    async with app.node(url) as node:
        assert [d.id for d in await node.client.list()] == ["other"]
        await node.client.get("other").resume()
        assert await node.client.get("other").result(timeout=30) == "posted"


async def test_a_deleted_child_is_reported_to_its_parent_by_the_next_node(
    app: App, url: str
) -> None:
    async with app.node(url) as node:
        await node.client.workflow("parent", id="parent").start()
    async with open_store(url) as store, custody(store) as custodian:
        assert await Client(custodian).get("child").delete(force=True, reason="tidying") == 1
    async with app.node(url) as node:
        ended = await node.client.get("parent").wait(timeout=30)
        assert ended.failure is not None
        assert "tidying" in ended.failure.message


@pytest.mark.parametrize("clean", [True, False])
async def test_the_next_owner_learns_how_the_last_one_ended(
    app: App, url: str, clean: bool
) -> None:
    async with app.node(url) as node:
        await node.client.workflow("wait", id="w").start(1)
    async with open_store(url) as store:
        if not clean:
            await store.claim(["default/0"], Incarnation("crashed", "00" * 8))
    async with open_store(url) as store, custody(store) as custodian:
        await Client(custodian).get("w").delete(force=True)
    async with open_store(url) as store:
        assert (await store.claim(["default/0"], Incarnation("next", "11" * 8)))[
            "default/0"
        ].clean is clean


async def test_a_store_that_a_node_owns_is_refused(app: App, url: str) -> None:
    async with app.node(url), open_store(url) as store:
        with pytest.raises(StoreLocked):
            async with custody(store):
                raise AssertionError("it was given away")
