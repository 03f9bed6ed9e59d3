"""Random work over links that drop, delay, repeat and reorder all they carry.

Nothing durable may be lost or done twice. A seed gives the same faults again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest
from nodes import fleet_of

from perdure import App, workflow
from perdure.transport.inprocess import Faults

NAMES = ("a", "b", "c")
INSTANCES = 24
MESSAGES = 4


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost is asked for again soon."""
    for module in ("perdure.node.gateway", "perdure.client.remote.gateway"):
        monkeypatch.setattr(f"{module}.WAIT_MS", 300)
    for module in ("perdure.node.gateway", "perdure.client.remote.store"):
        monkeypatch.setattr(f"{module}.CALL_MS", 200)
    ask = "perdure.client.remote.route.Route.ask"
    from perdure.client.remote.route import Route

    assert Route.ask.__kwdefaults__ is not None
    monkeypatch.setattr(f"{ask}.__defaults__", (200,))
    monkeypatch.setattr("perdure.client.gateway._ROUND_MS", 300)
    # Starts go directly where they may, as after the first half minute of a scope.
    monkeypatch.setattr("perdure.node.front.listening.LINK_MS", -1_000_000)


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_lost_or_done_twice(seed: int) -> None:
    app = App("faults")
    began: Counter[str] = Counter()

    @app.activity
    async def note(unit: str) -> str:
        began[unit] += 1
        return unit

    @app.workflow
    async def target(peers: list[str]) -> list[int]:
        await note(workflow.info().id)
        seen = [await workflow.receive("n", int) for _ in range(MESSAGES)]
        for other in peers:
            workflow.send(other, "ball", 1)
        for _ in peers:
            await workflow.receive("ball", int)
        return seen

    random = Random(seed)
    async with fleet_of(app, *NAMES, seed=seed, rescan_ms=200) as fleet:
        clients = [fleet.client(*NAMES, name=f"client{n}") for n in range(2)]
        for client in clients:
            await client.__aenter__()
        fleet.network.use(Faults(drop=0.1, duplicate=0.1, reorder=0.2, delay_ms=(0, 20)))
        everyone = [*clients, *(fleet.nodes[name].client for name in NAMES)]
        units = [f"t{n}" for n in range(INSTANCES)]

        async def play(number: int) -> list[int]:
            unit = units[number]
            partner = units[number ^ 1]
            await random.choice(everyone).workflow("target", id=unit).start([partner])
            sender = random.choice(everyone)  # order holds for each sender
            for value in range(MESSAGES):
                await sender.get(unit).send("n", value)
            return await random.choice(everyone).get(unit).result(timeout=90)  # type: ignore[no-any-return]

        async def cut() -> None:
            while True:
                await asyncio.sleep(random.uniform(0.1, 0.4))
                fleet.network.partition({random.choice(NAMES)})
                await asyncio.sleep(random.uniform(0.0, 0.3))
                fleet.network.heal()

        cutting = asyncio.ensure_future(cut())
        results = await asyncio.gather(*map(play, range(INSTANCES)))
        cutting.cancel()
        fleet.network.heal()
        fleet.network.use(Faults())
        for client in clients:
            await client.__aexit__(None, None, None)
        # Each was told once, in order, and its activity began once: no instance ran twice.
        assert results == [list(range(MESSAGES))] * INSTANCES
        assert began == Counter(units)
        counts = await fleet.nodes["a"].client.counts()
        assert counts["completed"] == INSTANCES
        assert counts["dead_letters"] == 0
        assert counts["inbox"] == 0
