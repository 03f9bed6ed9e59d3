"""Definitions with names of their own, a client made from the store alone, and an outcome to match on."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from perdure import App, Client, WorkflowFailed

app = App("outcome")


@app.activity(name="Greet")  # journals carry this name: the function can be renamed and moved
async def greet(name: str) -> str:
    if not name:
        raise ValueError("nobody to greet")
    return f"Hello, {name}!"


@app.workflow(name="HelloWorld")
async def hello_world(name: str) -> str:
    return await greet(name)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'hello.db'}"
        async with app.node(url), Client.open(url) as client:
            for key, name in (("hello-1", "Rust"), ("hello-2", "")):
                handle = client.workflow("HelloWorld", id=key)  # by name: this client needs no code
                await handle.start(name)
                outcome = await handle.wait(timeout=5)
                match outcome.status:
                    case "completed":
                        print("completed:", outcome.result())
                        assert outcome.result() == "Hello, Rust!"
                    case "failed":
                        assert outcome.failure is not None
                        print("failed:", outcome.failure.display())
                    case other:
                        raise AssertionError(other)
            try:
                await client.get("hello-2").result(timeout=5)  # the same as an exception
            except WorkflowFailed as error:
                print("raised:", error)


if __name__ == "__main__":
    asyncio.run(main())
