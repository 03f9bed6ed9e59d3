"""A client in another process than the node: it starts, sends, cancels and waits; and it may come before the node."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from perdure import Client, NotFound, WorkflowCancelled
from perdure.errors import NotRunning

sys.path.insert(0, str(Path(__file__).parent))

import program  # the same program that the other processes run
from running import Start, until_noted

NO_POLLING_S = 0.1


async def test_it_starts_sends_cancels_and_waits_while_a_node_runs_elsewhere(
    url: str, start: Start
) -> None:
    await start(url)
    async with Client.open(url) as client:
        assert await client.workflow(program.steps, id="run").run(1) == 7
        adder = client.workflow(program.add_up, id="adder")
        await adder.start(2)
        await adder.send(program.numbers, 1)
        await adder.send(program.numbers, 2)
        assert await adder.result(timeout=20) == [1, 2]
        with pytest.raises(NotRunning):
            await adder.send(program.numbers, 3)
        waits = client.workflow(program.waits, id="waits")
        await waits.start()
        await waits.cancel("enough")
        with pytest.raises(WorkflowCancelled):
            await waits.result(timeout=20)
        assert sorted(d.id for d in await client.list()) == ["adder", "run", "waits"]
        with pytest.raises(NotFound):
            await client.get("nobody").send("numbers", 1)


async def test_nothing_on_its_way_is_found_by_polling(url: str, start: Start) -> None:
    await start(url)
    took: list[float] = []
    async with Client.open(url) as client:
        for n in range(10):
            began = time.perf_counter()
            await client.workflow(program.steps, id=f"run-{n}").run(n)
            took.append(time.perf_counter() - began)
        handle = client.workflow(program.add_up, id="adder")
        await handle.start(10)
        for n in range(10):
            await handle.send(program.numbers, n)
        assert await handle.result(timeout=20) == list(range(10))
    assert min(took) < NO_POLLING_S, f"each start to result took at least {min(took):.3f} s"


async def test_what_is_posted_while_no_node_runs_is_found_by_the_next(
    url: str, start: Start
) -> None:
    async with Client.open(url) as client:
        adder = client.workflow(program.add_up, id="adder")
        await adder.start(2)
        await adder.send(program.numbers, 1)
        await adder.send(program.numbers, 2)
        waits = client.workflow(program.waits, id="waits")
        await waits.start()
        await waits.cancel("before it began")
        waiting = asyncio.ensure_future(adder.result(timeout=30))
        await start(url)
        assert await waiting == [1, 2]
        with pytest.raises(WorkflowCancelled):
            await waits.result(timeout=20)


async def test_a_client_that_waits_is_told_by_the_node_that_takes_over(
    url: str, start: Start
) -> None:
    owner = await start(url)
    async with Client.open(url) as client:
        handle = client.workflow(program.add_up, id="adder")
        await handle.start(1)
        waiting = asyncio.ensure_future(handle.result(timeout=30))
        await owner.kill()
        await handle.send(program.numbers, 5)
        await start(url)
        assert await waiting == [5]


async def test_mail_does_not_disturb_a_running_activity(
    url: str, start: Start, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    await start(url, HANG="1", LEDGER=str(ledger))
    async with Client.open(url) as client:
        handle = client.workflow(program.work_and_listen, id="busy")
        await handle.start(3)
        await until_noted(ledger, "second", 1)
        for n in (1, 2):
            version = (await handle.describe()).updated_at
            await handle.send(program.numbers, n)
            async with asyncio.timeout(20):
                while (await handle.describe()).updated_at == version:
                    await asyncio.sleep(0.01)  # until the other process has taken it
        await handle.terminate("seen enough")
        await handle.wait(timeout=20)
    assert ledger.read_text().split() == ["second", "busy"], "the activity was begun once"


async def test_a_burst_of_messages_arrives_in_order(url: str, start: Start) -> None:
    await start(url)
    async with Client.open(url) as client:
        handle = client.workflow(program.add_up, id="adder")
        await handle.start(100)
        for n in range(100):
            await handle.send(program.numbers, n)
        assert await handle.result(timeout=20) == list(range(100))
