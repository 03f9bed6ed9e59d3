"""Posters in processes of their own, and the scenario that they post to: `python foreign.py NAME`.

A poster gets the URL of a store by each line of its input, posts its letters there, and says `done`.
"""

from __future__ import annotations

import asyncio
import sys
from hashlib import blake2b

from perdure import App, Client, NotFound, workflow
from perdure.client.gateway import StoreGateway
from perdure.codec import encode
from perdure.errors import StoreUnavailable
from perdure.kernel.data.message import Message, Send
from perdure.testing.crash import Scenario

POSTERS = ("ann", "bob")
LETTERS = 8
POSTBOX = "postbox"
PATIENCE_S = 50

app = App("foreign")

Letter = list[str | int]
letters = workflow.Channel[Letter]("letters")


@app.activity
async def stamp(count: int) -> int:
    return count


@app.workflow
async def postbox(posters: list[str], each: int) -> list[list[int]]:
    """What each poster has sent, in the order of its arrival."""
    numbers: dict[str, list[int]] = {name: [] for name in posters}
    for count in range(len(posters) * each):
        name, number = await letters.receive()
        numbers[str(name)].append(int(number))
        if count % 4 == 3:
            await stamp(count)
    return list(numbers.values())


async def run_postbox(client: Client) -> object:
    handle = client.workflow(postbox, id=POSTBOX)
    await handle.start(list(POSTERS), LETTERS)
    return await handle.result()


def check_postbox(result: object) -> None:
    assert result == [list(range(LETTERS))] * len(POSTERS), result


foreign_scenario = Scenario(
    app, run_postbox, ordered=False, check=check_postbox, patience_s=PATIENCE_S
)


# ---------------------------------------------------------------- a poster


async def post_all(url: str, name: str) -> None:
    """Post each letter until the store has taken it, and each third one once more."""
    async with Client.open(url) as client, asyncio.timeout(PATIENCE_S):
        while not await _is_there(client):
            await asyncio.sleep(0.001)
        way = StoreGateway(client.store)
        for number in range(LETTERS):
            number_id = blake2b(f"{name} {number}".encode(), digest_size=16).digest()
            message = Message(number_id, POSTBOX, Send("letters", encode([name, number])), 0)
            for _ in range(2 if number % 3 == 0 else 1):
                await _post(way, message)
            await asyncio.sleep(0.001)


async def _is_there(client: Client) -> bool:
    try:
        await client.get(POSTBOX).describe()
    except NotFound:
        return False
    return True


async def _post(way: StoreGateway, message: Message) -> None:
    while True:
        try:
            outcome = await way.send(message)
        except StoreUnavailable:
            await asyncio.sleep(0.01)
        else:
            assert outcome == "ok", f"{message.body} was answered {outcome}"
            return


if __name__ == "__main__":
    for line in sys.stdin:
        asyncio.run(post_all(line.strip(), sys.argv[1]))
        sys.stdout.write("done\n")
        sys.stdout.flush()
