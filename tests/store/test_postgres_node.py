"""A node on PostgreSQL: it runs the shop of the README, dies by kill -9, and the next one goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import server_url
from postgres_stores import FreshStore, Schemas

from perdure import Client

PROGRAM = """
import asyncio, os, sys
from perdure import App

app = App("shop")

@app.activity
async def charge(card: str, cents: int) -> str:
    print("charged", os.getpid(), flush=True)
    return f"charged {cents} to {card}"

@app.workflow
async def checkout(card: str, cents: int) -> str:
    receipt = await charge(card, cents)
    await asyncio.sleep(float(sys.argv[2]))
    return receipt

async def main() -> None:
    async with app.node(sys.argv[1]) as node:
        print(await node.client.workflow(checkout, id="order-1").run("4242", 1990), flush=True)

asyncio.run(main())
"""


@pytest.fixture
def schema() -> Iterator[str]:
    schemas = Schemas()
    yield schemas.take()
    schemas.give_back()


def shop(path: Path, url: str, seconds: float) -> subprocess.Popen[str]:
    path.write_text(textwrap.dedent(PROGRAM))
    command = [sys.executable, str(path), url, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


async def test_a_node_is_killed_and_the_next_one_goes_on(schema: str, tmp_path: Path) -> None:
    async with FreshStore(schema, 64):
        pass
    url = f"{server_url()}?schema={schema}"
    first = shop(tmp_path / "shop.py", url, 0.5)
    assert first.stdout is not None
    assert await asyncio.to_thread(first.stdout.readline) == f"charged {first.pid}\n"
    async with Client.open(url) as client:
        handle = client.workflow("checkout", id="order-1")
        # The result of the activity is recorded when the instance waits for its timer.
        async with asyncio.timeout(10):
            while (await handle.describe()).reason != "timer":
                await asyncio.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        second = shop(tmp_path / "shop.py", url, 0.5)
        # Another process waits for the result, and hears of it.
        result = await handle.result()
        assert result == "charged 1990 to 4242"
        output, _ = await asyncio.to_thread(second.communicate)
        assert output == "charged 1990 to 4242\n"
