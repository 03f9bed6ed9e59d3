"""Where no meter provider is, nothing of OpenTelemetry is imported, wrapped or called."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from engine import World
from meters import Meters
from opentelemetry import metrics as api
from opentelemetry.metrics import NoOpMeterProvider

from perdure import App, Client, Node
from perdure.errors import UsageError
from perdure.node.telemetry.metrics import ENVIRONMENT, find_provider
from perdure.node.telemetry.tally import NodeMetrics

PROGRAM = """
import asyncio, sys
from perdure import App, Client

app = App("shop")

@app.activity
async def one() -> int:
    return 1

@app.workflow
async def calls() -> int:
    return await one()

async def main():
    async with app.node("memory://") as node:
        assert await node.client.workflow(calls, id="x").run() == 1
    async with Client.open("memory://") as client:
        await client.list()

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


@pytest.fixture
def provider_of_the_process(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `get_meter_provider()` gives; empty: what the API gives as long as nobody has set one."""
    given: list[Any] = []
    real = api.get_meter_provider
    monkeypatch.setattr(api, "get_meter_provider", lambda: given[0] if given else real())
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    return given


def test_nothing_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


async def test_without_a_provider_nothing_is_wrapped(
    world: World, app: App, provider_of_the_process: list[Any]
) -> None:
    async with world.node(app) as node:
        assert node._life is not None
        assert (node._life.turns._metrics, node._life.attempts.metrics) == (None, None)
        assert node.store is node._store
        assert node.client._gateway is node.gateway


async def test_the_provider_of_the_process_is_found_when_the_node_starts(
    world: World, app: App, meters: Meters, provider_of_the_process: list[Any]
) -> None:
    @app.workflow
    async def nothing() -> None: ...

    node = world.node(app)
    provider_of_the_process.append(meters)
    async with node:
        await node.client.workflow(nothing, id="x").run()
    assert meters.total("perdure.workflow.starts") == 1
    async with Client.open("memory://") as client:
        await client.workflow("nothing", id="x").start()
    assert meters.total("perdure.client.calls", verb="start") == 1


@pytest.mark.parametrize("given", [True, False], ids=["given", "of the process"])
async def test_a_provider_that_does_nothing_is_none(
    given: bool, provider_of_the_process: list[Any]
) -> None:
    nothing = NoOpMeterProvider()
    provider_of_the_process.append(nothing)
    assert find_provider(nothing if given else None) is None


@pytest.mark.parametrize("given", ["prometheus", Meters, object()], ids=["text", "class", "object"])
def test_what_is_no_provider_is_refused(app: App, given: Any) -> None:
    with pytest.raises(UsageError, match="meter_provider must be an OpenTelemetry MeterProvider"):
        app.node("memory://", meter_provider=given)
    with pytest.raises(UsageError, match="meter_provider must be an OpenTelemetry MeterProvider"):
        Client.open("memory://", meter_provider=given)


async def test_a_provider_that_the_environment_names_but_nobody_has(
    app: App, monkeypatch: pytest.MonkeyPatch, provider_of_the_process: list[Any]
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "nobody_has_it")
    with pytest.raises(UsageError, match=f"'nobody_has_it' that {ENVIRONMENT} names"):
        await Node(app, "memory://").start()


async def test_numbers_without_any_provider(world: World, app: App) -> None:
    @app.activity
    async def one() -> int:
        return 1

    @app.workflow
    async def calls() -> int:
        return await one()

    node = world.node(app)
    assert node.metrics == NodeMetrics()
    async with node:
        await node.client.workflow(calls, id="x").run()
        await node.client.workflow("missing", id="y").start()
        now = node.metrics
    expected = NodeMetrics(turns=3, commits=3, started=1, completed=1, suspended=1, attempts=1)
    assert (now, node.metrics) == (NodeMetrics(**(as_dict(expected) | {"residents": 1})), expected)
    async with node:
        found = node.metrics
        assert (found.started, found.completed, found.attempts) == (0, 0, 0), "since the last start"


def as_dict(metrics: NodeMetrics) -> dict[str, int]:
    return {name: getattr(metrics, name) for name in NodeMetrics.__slots__}
