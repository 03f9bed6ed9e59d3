"""The smallest program: one activity, one workflow, one SQLite file. A second node finds the result of the first.

Run it with a name, if you like: `python hello.py Ada`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from perdure import App

app = App("hello")


@app.activity
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@app.workflow
async def hello(name: str) -> str:
    return await greet(name)


async def main(name: str = "world") -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'hello.db'}"
        async with app.node(url) as node:
            handle = node.client.workflow(hello, id="hello-1")
            await handle.start(name)  # durable from here on
            print(await handle.result(timeout=5))
        async with app.node(url) as node:  # as after a restart
            again = await node.client.workflow(hello, id="hello-1").run(
                name
            )  # joins: nothing runs twice
            assert again == f"Hello, {name}!"


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
