"""A client in another process: it knows the file and the names, not the code; it starts, sends and reads."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from perdure import App, workflow

app = App("another-process")
names = workflow.Channel[str]("name")

CLIENT = """
import asyncio, sys
from perdure import Client

async def main(url):
    async with Client.open(url) as client:
        greeting = client.workflow("greeter", id="greeter-1")
        await greeting.start("Hello")
        await greeting.send("name", "world")
        print(await greeting.result(timeout=10))

asyncio.run(main(sys.argv[1]))
"""


@app.workflow
async def greeter(greeting: str) -> str:
    return f"{greeting}, {await names.receive()}!"


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'shared.db'}"
        async with app.node(url) as node:
            other = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CLIENT, url, stdout=asyncio.subprocess.PIPE
            )
            printed, _ = await other.communicate()
            assert printed.decode().strip() == "Hello, world!"
            assert await node.client.get("greeter-1").result() == "Hello, world!"
    print("process", other.pid, "started it here and got:", printed.decode().strip())


if __name__ == "__main__":
    asyncio.run(main())
