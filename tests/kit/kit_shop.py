"""The app of the kit's tests: something of everything."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from perdure import App, RetryPolicy, activity, workflow

approved = workflow.Channel[bool]("approved")


def make_app() -> App:
    """A shop. `charge` fails until the third attempt, `hang` never ends, `ask` waits for another instance."""
    app = App("shop")

    @app.activity(
        retry=RetryPolicy(maximum_attempts=5, initial_interval=3_600, maximum_interval=86_400)
    )
    async def charge(card: str, cents: int = 100) -> str:
        if activity.info().attempt < 3:
            raise ConnectionError("the bank is away")
        return f"{card}-{cents}"

    @app.activity
    def note(text: str, *, loud: bool = False) -> None:
        return None

    @app.activity(timeout=0.02)
    async def hang(seconds: float) -> str:
        await asyncio.Event().wait()
        return "never"

    @app.activity
    async def ask(id: str) -> object:
        return await activity.client().get(id).result()

    @app.workflow
    async def month(days: int = 30) -> str:
        before = workflow.now()
        await workflow.sleep(timedelta(days=days), name="a month")
        return str(workflow.now() - before)

    @app.workflow
    async def approval(hours: float = 24) -> str:
        try:
            async with asyncio.timeout(hours * 3_600):
                return "approved" if await approved.receive() else "refused"
        except TimeoutError:
            return "nobody answered"

    @app.workflow
    async def pay(card: str) -> str:
        return await charge(card)

    @app.workflow
    async def patient() -> bool:
        return await approved.receive()

    @app.workflow
    async def noted(text: str, seconds: float) -> None:
        await workflow.sleep(seconds)
        await note(text)

    @app.workflow
    async def hanging(seconds: float) -> str:
        return await hang(seconds)

    @app.workflow
    async def asking(id: str) -> object:
        return await ask(id)

    @app.workflow
    async def eternal() -> None:
        workflow.kv.set("rounds", (workflow.kv.get("rounds", int, 0) or 0) + 1)
        await workflow.sleep(3_600)
        workflow.continue_as_new(eternal)

    return app
