"""Two greetings in parallel. The results come in the order of the calls, or in the order in which they completed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from perdure import App, workflow

app = App("greetings")


@app.activity
async def greet(name: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return f"Hello, {name}!"


@app.workflow
async def both() -> dict[str, list[str]]:
    def calls() -> list[Coroutine[object, object, str]]:
        return [greet("Gabbro", 0.1), greet("Schist", 0.0)]

    return {
        "gather": await asyncio.gather(*calls()),
        "argument": [str(outcome) for outcome in await workflow.join(*calls(), order="argument")],
        "history": [
            str(outcome) for outcome in await workflow.join(*calls(), order="history")
        ],  # errors are values
    }


async def main() -> None:
    async with app.node("memory://") as node:
        results = await node.client.workflow(both, id="greetings-1").run()
    assert results["gather"] == results["argument"] == ["Hello, Gabbro!", "Hello, Schist!"]
    assert results["history"] == ["Hello, Schist!", "Hello, Gabbro!"]
    print(results)


if __name__ == "__main__":
    asyncio.run(main())
