"""A client that fights with others for a few ids: `python rival.py URL NAME SEED ROUNDS`.

Each start has an argument of its own, which its run returns. So a result tells whose run it is of, and the reason of a
cancel or a terminate tells whose it was. `fight` gives a sentence for each outcome that cannot be explained.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from perdure import App, Client, NotFound, WorkflowCancelled, WorkflowTerminated, workflow
from perdure.errors import AlreadyStarted, NotRunning, StillRunning, Timeout

app = App("rivals")
IDS = ("a", "b", "c")
PATIENCE_S = 20
TYPED = (AlreadyStarted, NotFound, NotRunning, StillRunning, WorkflowCancelled, WorkflowTerminated)
OTHERS = ("replaced by a new start of the same id", "it was deleted")


@app.workflow
async def prize(owner: str, pause_ms: int) -> str:
    if pause_ms:
        await workflow.sleep(pause_ms / 1000)
    return owner


class Rival:
    """One of them."""

    def __init__(self, client: Client, name: str, seed: int) -> None:
        self.client = client
        self.name = name
        self.random = random.Random(seed)
        self.wrong: list[str] = []
        self.outcomes: dict[str, int] = {}

    async def fight(self, rounds: int) -> list[str]:
        """Take so many turns; what cannot be explained."""
        for number in range(rounds):
            verb = self.random.choice((self.run, self.run, self.start, self.stop, self.delete))
            await self._watched(verb, f"{self.name}-{number}")
        return self.wrong

    async def _watched(self, verb: Callable[[str], Awaitable[None]], mark: str) -> None:
        outcome = "ok"
        try:
            async with asyncio.timeout(PATIENCE_S):
                await verb(mark)
        except TYPED as error:
            outcome = type(error).__name__
            self._check_reason(verb.__name__, mark, error)
        except (TimeoutError, Timeout):
            outcome = "late"
            self.wrong.append(f"{verb.__name__} of {mark} had no outcome within {PATIENCE_S} s")
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def _check_reason(self, verb: str, mark: str, error: Exception) -> None:
        """A run is stopped by its own handle only, or by what is done to its id."""
        if isinstance(error, WorkflowCancelled | WorkflowTerminated):
            why = error.failure.message
            if why != mark and why not in OTHERS:
                self.wrong.append(f"{verb} of {mark} was stopped by {why!r}")

    def _handle(self) -> Any:
        policy: Any = self.random.choice(("join", "reject", "replace", "replace"))
        return self.client.workflow(prize, id=self.random.choice(IDS), if_exists=policy)

    def _check_result(self, mark: str, result: object) -> None:
        if result != mark:
            self.wrong.append(f"{mark} got the result of {result}")

    async def run(self, mark: str) -> None:
        self._check_result(mark, await self._handle().run(mark, self.random.choice((0, 0, 5))))

    async def start(self, mark: str) -> None:
        handle = self._handle()
        await handle.start(mark, self.random.choice((0, 5)))
        self._check_result(mark, await handle.result())

    async def stop(self, mark: str) -> None:
        handle = self._handle()
        await handle.start(mark, 50)
        await self.random.choice((handle.cancel, handle.terminate))(mark)
        self._check_result(mark, await handle.result())

    async def delete(self, mark: str) -> None:
        await self.client.get(self.random.choice(IDS)).delete(force=self.random.random() < 0.5)


async def main(url: str, name: str, seed: int, rounds: int) -> None:
    async with Client.open(url) as client:
        rival = Rival(client, name, seed)
        wrong = await rival.fight(rounds)
    sys.stdout.write("\n".join([*wrong, f"done {rival.outcomes}"]) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
