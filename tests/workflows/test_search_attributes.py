"""Search attributes: set at the start or by the code, merged, kept, limited, and what lists are filtered by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from engine import World, waits_for

from perdure import App, Limits, Where, WorkflowFailed, workflow
from perdure.errors import DefinitionError, LimitExceeded, UsageError
from perdure.kernel.data.events import AttributesSet, Started

MAY = datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))


async def ids(client: Any, *where: Where, **filters: Any) -> list[str]:
    return [found.id for found in await client.list(where=where, **filters)]


async def test_changes_are_merged_and_seen_with_the_turn(world: World, app: App) -> None:
    @app.workflow
    async def order() -> None:
        workflow.set_attributes(
            {"customer": "c1", "total": 5, "tags": ["a", "b"], "due": MAY, "paid": False}
        )
        workflow.set_attributes({"total": 7.5, "never_set": None, "paid": None})
        await workflow.receive("go", bool)
        workflow.set_attributes({"customer": None, "tags": None, "due": None, "total": None})
        await workflow.receive("end", bool)

    async with world.node(app) as node:
        handle = node.client.workflow(order, id="o")
        await handle.start()
        assert (await handle.describe()).attributes == {
            "customer": "c1",
            "due": MAY,
            "tags": ["a", "b"],
            "total": 7.5,
        }
        assert await ids(node.client, Where("customer", "=", "c1"), Where("total", ">", 7)) == ["o"]
        assert await ids(
            node.client, Where("due", "<", datetime(2026, 5, 1, 10, 1, tzinfo=UTC))
        ) == ["o"]
        assert await ids(node.client, Where("due", "<", datetime(2026, 5, 1, 10, tzinfo=UTC))) == []
        assert await ids(node.client, Where("customer", "=", "c1"), status="completed") == []
        assert await node.client.list(where=Where("tags", "=", "b")) == [await handle.describe()]
        await handle.send("go", True)
        await waits_for(handle, "message end")
        assert (await handle.describe()).attributes == {}
        assert await ids(node.client, Where("customer", "=", "c1")) == []


async def test_a_start_can_bring_them(world: World, app: App) -> None:
    @app.workflow
    async def order(go: bool) -> None:
        if go:
            workflow.set_attributes({"step": 1})
        await workflow.receive("end", bool)

    async with world.node(app) as node:
        client = node.client
        for number, go in enumerate((True, False)):
            given = {"customer": "c1", "number": number}
            await client.workflow(order, id=f"o{number}", attributes=given).start(go)
        await client.workflow(order, id="later", attributes={"customer": "c1"}, delay=60).start(
            False
        )
        await client.workflow(order, id="none", attributes={}).start(False)
        assert sorted(await ids(client, Where("customer", "=", "c1"))) == ["later", "o0", "o1"]
        assert (await client.get("o0").describe()).attributes == {
            "customer": "c1",
            "number": 0,
            "step": 1,
        }
        assert (await client.get("none").describe()).attributes == {}
        await client.workflow(
            order, id="o1", if_exists="replace", attributes={"customer": "c2"}
        ).start(False)
        assert await ids(client, Where("customer", "in", ["c2"])) == ["o1"]
        assert await ids(client, Where("number", "=", 1)) == []


async def test_they_are_kept_by_continue_as_new_and_over_restarts(world: World, app: App) -> None:
    @app.workflow
    async def steps(i: int) -> None:
        workflow.set_attributes({f"step_{i}": i})
        await workflow.receive("go", bool)
        workflow.set_attributes({f"step_{i}": None, "last": i})
        if i < 3:
            workflow.continue_as_new(steps, i + 1)

    async with world.node(app) as node:
        await node.client.workflow(steps, id="s", attributes={"customer": "c1"}).start(1)
    for i in range(1, 4):
        async with world.node(app) as node:
            handle = node.client.get("s")
            await waits_for(handle, "message go")
            last = {"last": i - 1} if i > 1 else {}
            assert (await handle.describe()).attributes == {"customer": "c1", f"step_{i}": i} | last
            await handle.send("go", True)
    async with world.node(app) as node:
        handle = node.client.get("s")
        assert (await handle.wait(timeout=30)).attributes == {"customer": "c1", "last": 3}
        events = [entry.event for entry in await handle.history(3)]
        assert [type(event) for event in events[:2]] == [Started, AttributesSet]


async def test_replay_merges_what_was_recorded(world: World, app: App) -> None:
    async def body() -> list[str]:
        refused: list[str] = []
        for n in range(5):
            try:
                workflow.set_attributes({f"n{n}": n, "tags": ["a"] * n})
            except LimitExceeded as error:
                refused.append(str(error))
        workflow.set_attributes({"tags": []})
        return refused

    @app.workflow(name="replayed")
    async def whole() -> list[str]:
        refused = await body()
        await workflow.receive("end", bool)
        workflow.set_attributes({"end": True})
        return refused

    limits = Limits(attributes=6)
    async with world.node(app, limits=limits) as node:
        await node.client.workflow(whole, id="w").start()
        await waits_for(node.client.get("w"), "message end")
    async with world.node(app, limits=limits) as node:
        handle = node.client.get("w")
        await handle.send("end", True)
        refused = await handle.result(timeout=30)
        assert len(refused) == 2
        assert (
            "there would be 7 search attributes, each text of a list counted; the limit is 6"
            in refused[0]
        )
        assert (await handle.describe()).attributes == {
            "end": True,
            "n0": 0,
            "n1": 1,
            "n2": 2,
            "tags": [],
        }


async def test_number_and_bytes_are_limited(world: World, app: App) -> None:
    @app.workflow
    async def large(size: int) -> None:
        workflow.set_attributes({"text": "x" * size})

    async with world.node(app, limits=Limits(attribute_bytes=100)) as node:
        await node.client.workflow(large, id="fits").run(90)
        with pytest.raises(
            WorkflowFailed, match=r"LimitExceeded.*109 bytes.*100 \(Limits\.attribute_bytes\).*KV"
        ):
            await node.client.workflow(large, id="large").run(100)
        with pytest.raises(LimitExceeded, match=r"the limit is 100 \(Limits\.attribute_bytes\)"):
            node.client.workflow(large, id="start", attributes={"text": "x" * 100})
        with pytest.raises(LimitExceeded, match=r"there would be 33 .*\(Limits\.attributes\)"):
            node.client.workflow(large, id="start", attributes={"tags": ["x"] * 33})


BAD: list[tuple[Any, type[Exception], str]] = [
    ({"a": b"bytes"}, UsageError, r"the search attribute 'a' cannot be b'bytes': use text, an int"),
    ({"a": {"b": 1}}, UsageError, "'a' cannot be {'b': 1}"),
    ({"a": [1]}, UsageError, r"'a' cannot be \[1\]"),
    ({"a": ["x", None]}, UsageError, "'a' cannot be"),
    ({"a": 1 << 63}, UsageError, "'a' cannot be 9223372036854775808"),
    ({"a": float("nan")}, UsageError, "'a' cannot be nan"),
    ({"a": datetime(2026, 1, 1)}, UsageError, "'a' cannot be datetime.*a datetime with a timezone"),
    ({"a": "nul \0"}, UsageError, "'a' cannot be 'nul"),
    ({"a": "half \ud800"}, UsageError, "'a' cannot be 'half"),
    (
        {"a b": 1},
        DefinitionError,
        "'a b' cannot be the name of a search attribute: use up to 200 letters",
    ),
    ({1: 1}, DefinitionError, "1 cannot be the name of a search attribute"),
    ({"": 1}, DefinitionError, "'' cannot be the name"),
    ("customer", UsageError, "search attributes are a dict of names and values, got 'customer'"),
]


@pytest.mark.parametrize(("values", "kind", "words"), BAD, ids=lambda value: ascii(value)[:20])
async def test_what_cannot_be_one_is_refused_at_the_call(
    values: Any, kind: type[Exception], words: str
) -> None:
    app = App("shop")
    refused: list[Exception] = []

    @app.workflow
    async def order() -> None:
        with pytest.raises(kind, match=words) as caught:
            workflow.set_attributes(values)
        refused.append(caught.value)

    async with app.node("memory://") as node:
        await node.client.workflow(order, id="o").run()
        assert len(refused) == 1
        assert not any(
            isinstance(entry.event, AttributesSet) for entry in await node.client.get("o").history()
        )
        with pytest.raises(kind, match=words):
            node.client.workflow(order, id="p", attributes=values)
        with pytest.raises(UsageError, match="'a' cannot be None"):
            node.client.workflow(order, id="p", attributes={"a": None})  # type: ignore[dict-item]


def test_outside_of_workflows_there_are_none() -> None:
    with pytest.raises(UsageError, match=r"workflow\.set_attributes\(\) is for workflow code"):
        workflow.set_attributes({"a": 1})


CONDITIONS: list[tuple[tuple[Any, ...], str]] = [
    (("total", "==", 1), "'==' is no operator for 'total'; use =, !=, <"),
    (
        ("total", "=", None),
        r"Where\('total', '=', ...\) needs text, a number, a bool or a datetime",
    ),
    (("total", "=", [1]), "needs text, a number"),
    (("total", "in", 1), "needs a list of values of one kind, got 1"),
    (("total", "in", [1, "a"]), "needs a list of values of one kind"),
    (("total", "in", [[1]]), "needs a list of values of one kind"),
    (
        ("due", "<", datetime(2026, 1, 1)),
        "needs text, a number, a bool or a datetime with a timezone",
    ),
]


@pytest.mark.parametrize(("arguments", "words"), CONDITIONS)
def test_a_condition_that_is_none_is_refused(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Where(*arguments)


async def test_filters_that_are_none_are_refused(world: World, app: App) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"wher": []}, "there is no filter 'wher'; did you mean 'where'"),
        ({"colour": 1}, "there is no filter 'colour'; use status, type"),
        (
            {"where": ["total>1"]},
            r"""a list of conditions such as Where\("total", ">=", 100\), got 'total>1'""",
        ),
        ({"status": "odd"}, "'odd' is not a status"),
        ({"id_prefix": 7}, "the filter 'id_prefix' is a text, got 7"),
        ({"closed_after": "yesterday"}, "closed_after must be a datetime, got 'yesterday'"),
    ]
    async with world.node(app) as node:
        for filters, words in bad:
            with pytest.raises(UsageError, match=words):
                await node.client.list(**filters)
            with pytest.raises(UsageError, match=words):
                await node.client.page(**filters)


async def test_lists_are_bounded_by_the_time_of_the_end(world: World, app: App) -> None:
    clock = world.stop_time()

    @app.workflow
    async def order() -> None:
        workflow.set_attributes({"customer": "c1"})

    async with world.node(app) as node:
        for number in range(3):
            await node.client.workflow(order, id=f"o{number}").run()
            clock.advance(1_000)
        ends = [(await node.client.get(f"o{n}").describe()).closed_at for n in range(3)]
        first, _, last = ends
        assert first is not None
        assert last is not None
        mine = Where("customer", "=", "c1")
        assert await ids(node.client, mine, closed_after=first) == ["o2", "o1"]
        assert await ids(node.client, mine, closed_before=last) == ["o1", "o0"]
        assert await ids(node.client, closed_after=first, closed_before=last) == ["o1"]
