"""Options, addresses and the order of calls: what is wrong is named with its place and with what is known there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Client, Node, NodeOptions, NotFound, workflow
from perdure.errors import StoreUnavailable, UsageError
from perdure.kernel.data.limits import Limits

app = App("shop")


@app.workflow
async def echo(x: int) -> int:
    return x


@app.workflow
async def waits() -> int:
    return await workflow.receive("never", int)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    "option", ["activities", "threads", "residents", "turn_limit_ms", "horizon_ms"]
)
@pytest.mark.parametrize("value", [0, -5])
def test_an_option_must_be_positive(option: str, value: int):
    with pytest.raises(UsageError, match=f"NodeOptions.{option} must be positive, got {value}"):
        NodeOptions(**{option: value})


@pytest.mark.parametrize("value", ["many", 1.5, None, True])
def test_an_option_must_be_a_whole_number(value: Any):
    with pytest.raises(UsageError, match=r"NodeOptions\.activities must be a whole number"):
        NodeOptions(activities=value)


@pytest.mark.parametrize(
    ("queues", "text"),
    [
        ({"gpu": 0}, "'gpu'"),
        ({"gpu": "two"}, "'gpu'"),
        (["gpu"], "must map queue names to numbers"),
    ],
)
def test_a_queue_limit_must_be_a_positive_number(queues: Any, text: str):
    with pytest.raises(UsageError, match=f"NodeOptions.queues.*{text}"):
        NodeOptions(queues=queues)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "must be positive, got 0"), ("big", "must be a whole number")]
)
def test_a_limit_must_be_a_positive_number(value: Any, text: str):
    with pytest.raises(UsageError, match=f"Limits.payload_bytes {text}"):
        Limits(payload_bytes=value)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("PERDURE_ACTIVITIES", "many", r"environment.*PERDURE_ACTIVITIES.*'many'"),
        ("PERDURE_ACTIVITIES", "", r"environment.*PERDURE_ACTIVITIES"),
        ("PERDURE_ACTIVITIES", "-1", r"NodeOptions.activities must be positive, got -1"),
        ("PERDURE_LIMITS_KV_KEYS", "1e3", r"environment.*PERDURE_LIMITS_KV_KEYS.*'1e3'"),
    ],
)
def test_a_wrong_environment_variable_is_named(key: str, value: str, text: str):
    with pytest.raises(UsageError, match=text):
        NodeOptions.load(environment={key: value})


def test_variables_that_are_not_options_of_a_node_are_left_alone():
    found = NodeOptions.load(
        environment={"PERDURE_STORE": "sqlite:///a.db", "PATH": "/bin", "PERDURE_THREADS": "3"}
    )
    assert found == NodeOptions(threads=3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "[node]\nthread = 3",
            r"unknown option 'thread' in .*options.toml; known are activities, .*threads",
        ),
        ("[node.limits]\nkeys = 3", r"unknown limit 'keys' in .*options.toml; known are .*kv_keys"),
        ("[node]\nthreads = 'three'", r"bad value in .*options.toml: .*threads.*'three'"),
        ("[node]\nthreads = 1.5", r"bad value in .*options.toml: .*threads.*1.5"),
        ("[node]\nthreads = true", r"bad value in .*options.toml: .*threads.*True"),
        ("[node]\nthreads = 0", r"NodeOptions.threads must be positive, got 0"),
        ("[node]\nqueues = 3", r"bad value in .*options.toml: .*queues"),
        ("[node.queues]\ngpu = 'x'", r"bad value in .*options.toml: .*gpu"),
        ("[node]\nlimits = 3", r"bad value in .*options.toml: .*limits"),
        ("node = 3", r"bad value in .*options.toml: .*node"),
        ("[node", r"cannot read options from .*options.toml: .*table declaration"),
        ("\x00", r"cannot read options from .*options.toml"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong_in_it(tmp_path: Path, text: str, complaint: str):
    file = tmp_path / "options.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        NodeOptions.load(file, environment={})


def test_a_file_that_is_not_text_or_not_there_is_named(tmp_path: Path):
    file = tmp_path / "options.toml"
    with pytest.raises(
        UsageError, match=r"cannot read options from .*options.toml: .*No such file"
    ):
        NodeOptions.load(file, environment={})
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError, match=r"cannot read options from .*options.toml"):
        NodeOptions.load(file, environment={})


# ---------------------------------------------------------------- addresses of stores


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", r"'' names no store"),
        ("shop.db", r"'shop.db' names no store.*use one of memory://"),
        ("redis://localhost/x", r"names no store that this release knows.*use one of memory://"),
        ("sqlite://shop.db", r"three slashes for a relative path: sqlite:///shop.db"),
        ("sqlite:///shop.db?sync=off", r"unknown option 'sync'; known are synchronous, shards"),
        (
            "sqlite:///shop.db?synchronous=maybe",
            r"sqlite:///shop.db\?synchronous=maybe.*synchronous",
        ),
        ("sqlite:///shop.db?shards=0", r"at least one shard"),
        ("sqlite:///shop.db?shards=many", r"shards=many"),
        ("memory://?synchronous=off", r"unknown option 'synchronous'; known are shards"),
        (7, r"7 is neither a store nor a URL of one; use one of memory://"),
        (None, r"None is neither a store nor a URL of one; use one of memory://"),
    ],
)
@pytest.mark.parametrize("by", ["node", "client"])
def test_an_address_that_names_no_store_is_refused(by: str, url: Any, text: str):
    with pytest.raises(UsageError, match=text):
        _ = app.node(url) if by == "node" else Client.open(url)


def test_options_of_another_type_are_refused():
    with pytest.raises(
        UsageError, match=r"options of a node must be NodeOptions.*, got {'threads': 3}"
    ):
        app.node("memory://", options={"threads": 3})


# ---------------------------------------------------------------- the order of calls


async def test_a_client_of_a_node_that_does_not_run_says_so():
    node = Node(app, "memory://", name="n1")
    handle = node.client.workflow(echo, id="e-1")
    for call in (
        lambda: handle.start(1),
        lambda: handle.run(1),
        lambda: handle.result(),
        lambda: handle.cancel(),
    ):
        with pytest.raises(
            UsageError, match="node 'n1' is not running; start it, or use `async with`"
        ):
            await call()


async def test_reading_through_a_node_that_does_not_run_says_so():
    node = Node(app, "memory://", name="n1")
    for call in (
        lambda: node.client.list(),
        lambda: node.client.get("e-1").describe(),
        lambda: node.client.counts(),
    ):
        with pytest.raises(
            (UsageError, StoreUnavailable), match=r"not running|is closed; use it inside"
        ):
            await call()


async def test_a_node_that_has_stopped_takes_nothing_and_can_start_again():
    node = Node(app, "memory://", name="n1")
    async with node:
        assert await node.client.workflow(echo, id="e-1").run(1) == 1
        client = node.client
    with pytest.raises(UsageError, match="node 'n1' is not running"):
        await client.workflow(echo, id="e-2").start(1)
    await node.stop()
    async with node:
        assert await node.client.workflow(echo, id="e-3").run(3) == 3


async def test_a_second_start_is_refused_and_the_node_goes_on():
    async with Node(app, "memory://", name="n1") as node:
        with pytest.raises(UsageError, match="node 'n1' runs already"):
            await node.start()
        assert await node.client.workflow(echo, id="e-1").run(1) == 1


async def test_two_starts_at_once_give_one_node():
    node = Node(app, "memory://", name="n1")
    outcomes = await asyncio.gather(node.start(), node.start(), return_exceptions=True)
    try:
        assert [type(o) for o in outcomes if o is not None] == [UsageError]
        assert await node.client.workflow(echo, id="e-1").run(1) == 1
    finally:
        await node.stop()


async def test_a_node_that_cannot_start_leaves_nothing_behind(tmp_path: Path):
    node = app.node(f"sqlite:///{tmp_path}/missing/shop.db")
    with pytest.raises(
        StoreUnavailable, match=r"the folder of .*shop.db does not exist; create it: mkdir -p"
    ):
        await node.start()
    (tmp_path / "missing").mkdir()
    async with node:
        assert await node.client.workflow(echo, id="e-1").run(1) == 1


async def test_a_waiter_is_told_when_its_node_stops():
    async with Node(app, "memory://", name="n1") as node:
        handle = node.client.workflow(waits, id="w-1")
        await handle.start()
        waiter = asyncio.ensure_future(handle.result())
        await asyncio.sleep(0)
    with pytest.raises(
        StoreUnavailable, match="the node has stopped; the instance goes on when a node runs again"
    ):
        await waiter


async def test_a_client_outside_its_block_says_that_the_store_is_closed():
    client = Client.open("memory://")
    with pytest.raises(StoreUnavailable, match="is closed; use it inside"):
        await client.get("e-1").describe()


# ---------------------------------------------------------------- two apps


def twin(answer: str) -> tuple[App, Any]:
    made = App("twin")

    @made.activity
    async def who() -> str:
        return answer

    @made.workflow(name="ask")
    async def ask() -> str:
        return await who()

    return made, ask


async def test_two_apps_of_one_name_in_one_process_do_not_mix(tmp_path: Path):
    (first, ask_first), (second, ask_second) = twin("first"), twin("second")
    async with first.node("memory://") as a, second.node(f"sqlite:///{tmp_path}/b.db") as b:
        for name in ("x", "y"):
            assert await a.client.workflow(ask_first, id=name).run() == "first"
            assert await b.client.workflow(ask_second, id=name).run() == "second"
        with pytest.raises(NotFound):
            await a.client.get("z").describe()


async def test_two_apps_of_one_name_cannot_own_one_file(tmp_path: Path):
    from perdure.errors import StoreLocked

    (first, ask), (second, _) = twin("first"), twin("second")
    url = f"sqlite:///{tmp_path}/shop.db"
    async with first.node(url) as a:
        with pytest.raises(
            StoreLocked,
            match=r"shop.db is owned by process \d+ .*; stop it, or open the store with",
        ):
            await second.node(url).start()
        assert await a.client.workflow(ask, id="x").run() == "first"
