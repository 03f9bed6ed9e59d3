"""A change that a running instance cannot replay suspends it, and names the line; the code that fits releases it."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from perdure import App, workflow

good, bad = App("mail"), App("mail")  # one app, before and after a hasty deploy


@good.activity(name="post")
async def post(text: str) -> str:
    return f"posted {text}"


bad.include(good)


@good.workflow(name="mail")
async def mail(text: str) -> str:
    result = await post(text)
    await workflow.receive("go", bool)
    return result


@bad.workflow(name="mail")
async def hasty(text: str) -> str:
    result = await post(text.upper())
    await workflow.receive("go", bool)
    return result


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'mail.db'}"
        async with good.node(url) as node:
            handle = node.client.workflow(mail, id="mail-1")
            await handle.start("hello")
            while (await handle.describe()).reason != "message go":
                await asyncio.sleep(0.01)
        async with bad.node(url) as node:
            handle = node.client.workflow(hasty, id="mail-1")
            await handle.send("go", True)  # kept, although the instance cannot go on
            found = await handle.describe()
            assert (found.status, found.reason) == ("suspended", "nondeterminism")
            assert found.failure is not None
            print(found.failure.message)
        async with good.node(url) as node:  # rolled back
            assert await node.client.get("mail-1").result(timeout=5) == "posted hello"
    print("put back, it completed")


if __name__ == "__main__":
    asyncio.run(main())
