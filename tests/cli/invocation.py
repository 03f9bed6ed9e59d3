"""The app that the commands are tried on, and what a command gives back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SHOP = '''
"""A shop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from perdure import App, Channel, RetryPolicy, workflow

print("the module was imported")

app = App("shop")
approved = Channel[bool]("approved")
NUMBER = 7
tries: list[str] = []


@dataclass
class Cart:
    card: str
    cents: int = 100


@app.activity(retry=RetryPolicy(maximum_attempts=2, initial_interval=0.001))
async def charge(card: str, cents: int) -> str:
    tries.append(card)
    print("charging")
    if tries.count(card) == 1:
        raise ConnectionError("the bank is away")
    return f"{card}-{cents}"


@app.activity
async def hang() -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("not yet", flush=True)


@app.workflow
async def pack(item: str) -> str:
    return item.upper()


@app.workflow
async def checkout(cart: Cart) -> dict[str, str]:
    workflow.set_status({"phase": "paying"})
    workflow.kv.set("card", cart.card)
    paid = await charge(cart.card, cart.cents)
    packed, _ = await asyncio.gather(pack("hat"), workflow.sleep(0.001, name="cool down"))
    return {"paid": paid, "packed": packed, "token": await workflow.checkpoint("token", lambda: "t")}


@app.workflow
async def approval(order: str, days: int = 1) -> bool:
    async with asyncio.timeout(days * 86_400):
        return await approved.receive()


@app.workflow
async def event(name: str) -> str:
    return await workflow.wait_event(name, str)


@app.workflow
async def broken() -> None:
    raise ValueError("no stock\\nis left")


@app.workflow
async def stuck() -> None:
    await asyncio.Event().wait()


@app.workflow
async def forever() -> None:
    await hang()


@app.workflow
async def double(n: int = 1) -> int:
    return n * 2


@app.workflow
async def countdown(n: int) -> str:
    if n:
        workflow.continue_as_new(countdown, n - 1)
    return "lift off"
'''


@dataclass(frozen=True)
class Ended:
    """What a command printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)


Cli = Callable[..., Ended]


def said_on_stdout(command: str, ended: Ended) -> bool:
    """Whether a command that was refused said anything on stdout but the document of its error."""
    if "--json" in command.split():
        return set(ended.json) != {"error"} or ended.json["error"]["exit_code"] != ended.code
    return bool(ended.stdout)
