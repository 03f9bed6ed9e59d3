"""A client in a process of its own: `python storm_client.py URL NAME SECONDS SEED LEDGER`.

It does one random thing after the other to instances of its own and to a box that it shares with
others, and writes down what was acknowledged, one line of JSON each.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from random import Random

from perdure import Client, NotFound, Timeout
from perdure.errors import Failed, InboxFull, StoreError
from perdure.simulation import programs

NEVER_S = 30 * 24 * 3_600
SHARED = "box-shared"
HABITS = {"lap": 7, "work": 1}
LETTERS_OF_A_BOX = 500
"""Then there is another box. A box carries all of its letters from lap to lap, so that a lap costs
the more the longer it collects: after some 20,000 a box is slower than its senders, and full."""
PATIENCE_S = 120
"""What is lost is never answered. A node that is killed all the time is slow on a busy machine."""


class Customer:
    """One client, and the file with what it was promised."""

    def __init__(self, client: Client, name: str, seed: int, ledger: Path) -> None:
        self.client = client
        self.name = name
        self.random = Random(seed)
        self.own = f"box-{name}"
        self.sent = dict.fromkeys((self.own, SHARED), 0)
        self.opened: set[str] = set()
        self.unanswered = 0
        self._ledger = ledger.open("a", buffering=1)

    def note(self, what: str, *details: object) -> None:
        self._ledger.write(json.dumps([what, *details]) + "\n")

    async def box(self, kind: str) -> str:
        """The box of this kind that letters go to at present."""
        box = f"{kind}-{self.sent[kind] // LETTERS_OF_A_BOX}"
        if box not in self.opened:
            await self.client.workflow(programs.box, id=box).start(box, HABITS, [])
            self.opened.add(box)
        return box

    async def letter(self, number: int) -> None:
        kind = self.random.choice(sorted(self.sent))
        await self._send_to(await self.box(kind), kind)

    async def _send_to(self, box: str, kind: str) -> None:
        letter: programs.Letter = [self.name, self.sent[kind]]
        self.sent[kind] += 1
        self.note("sending", box, *letter)
        await self.client.get(box).send(programs.mail, letter)
        self.note("sent", box, *letter)

    async def rest(self, number: int) -> None:
        box = await self.box(self.own)
        handle = self.client.get(box)
        await handle.pause("storm")
        await self._send_to(box, self.own)
        await handle.resume()

    async def take_back(self, number: int) -> None:
        """A start that is cancelled before it is due."""
        name = f"{self.name}-fickle-{number}"
        handle = self.client.workflow(
            programs.stay, id=name, delay=self.random.choice([NEVER_S, 0.2])
        )
        await handle.start(name)
        await (handle.cancel("storm") if self.random.random() < 0.5 else handle.terminate("storm"))
        self.note("cancelled", name, handle._delay_ms == NEVER_S * 1000)

    async def replace(self, number: int) -> None:
        name, tag = f"{self.name}-replaced", f"{self.name}-replaced-{number}"
        handle = self.client.workflow(programs.echo, id=name, if_exists="replace")
        result = await handle.run(tag, self.random.randrange(3))
        if result != tag:
            self.note("breach", f"stale: {name} gave {result}, not {tag}")
        self.note("replaced", name)

    async def change(self, number: int) -> None:
        """What is ended is the run that was started last."""
        name = f"{self.name}-changed"
        handle = self.client.workflow(programs.stay, id=name, if_exists="replace")
        await handle.start(f"{name}-{number}")
        await handle.terminate("storm")
        self.note("ended", name)

    async def order(self, number: int) -> None:
        """An order that is deleted, under an id that is used again.

        After an act without an answer it is another id: the last order may still be there.
        """
        name, tag = f"{self.name}-order-after-{self.unanswered}", f"{self.name}-order-{number}"
        sender, box = f"{tag}-postcard", await self.box(SHARED)
        self.note("sending", box, sender, 0)
        handle = self.client.workflow(programs.order, id=name)
        await handle.start(tag, box, sender, 0)
        result = await handle.result(timeout=PATIENCE_S)
        if result != [tag, tag]:
            self.note("breach", f"stale: {name} gave {result}, not {tag}")
        self.note("sent", box, sender, 0)
        await handle.delete(force=True)
        while await self._is_there(name):
            await asyncio.sleep(0.01)

    async def _is_there(self, name: str) -> bool:
        try:
            await self.client.get(name).describe()
        except NotFound:
            return False
        return True

    async def act(self, number: int) -> None:
        acts = [self.letter] * 8 + [
            self.rest,
            self.take_back,
            self.replace,
            self.change,
            self.order,
        ]
        act = self.random.choice(acts)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await act(number)
        except (TimeoutError, Timeout):
            self.unanswered += 1
            at = time.strftime("%H:%M:%S")
            text = f"stuck: {act.__name__} {number} of {self.name} is not answered at {at}"
            self.note("breach", text)
        except (InboxFull, StoreError, Failed) as error:
            self.unanswered += 1
            self.note("failed", act.__name__, number, repr(error))


async def main(url: str, name: str, seconds: float, seed: int, ledger: Path) -> None:
    async with Client.open(url) as client:
        customer = Customer(client, name, seed, ledger)
        until_s, number = time.monotonic() + seconds, 0
        while time.monotonic() < until_s:
            await customer.act(number)
            number += 1


if __name__ == "__main__":
    asyncio.run(
        main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    )
