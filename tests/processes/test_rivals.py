"""Seven clients, two of them in other processes, start, replace, stop and delete the same three ids at random.

Each caller gets the outcome of its own run, or an error that says what became of it; nobody waits for ever.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from perdure import Client, Node

sys.path.insert(0, str(Path(__file__).parent))

from rival import Rival, app

ROUNDS = 25


async def elsewhere(url: str, name: str, seed: int) -> list[str]:
    """A rival in a process of its own; what it found wrong."""
    program = Path(__file__).parent / "rival.py"
    arguments = (str(program), url, name, str(seed), str(ROUNDS))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    *wrong, last = out.decode().splitlines() or [""]
    return (
        wrong
        if last.startswith("done")
        else [*wrong, f"{name} ended with {process.returncode}: {last}"]
    )


@pytest.mark.parametrize("seed", [1, 2])
async def test_each_gets_the_outcome_of_its_own_run(url: str, seed: int) -> None:
    async with Node(app, url) as node, AsyncExitStack() as stack:
        clients = [node.client] * 3
        clients += [await stack.enter_async_context(Client.open(url)) for _ in range(2)]
        rivals = [Rival(client, f"r{n}", 100 * seed + n) for n, client in enumerate(clients)]
        found = await asyncio.gather(
            *(rival.fight(ROUNDS) for rival in rivals),
            *(elsewhere(url, f"p{n}", 100 * seed + 50 + n) for n in range(2)),
        )
        assert [sentence for wrong in found for sentence in wrong] == []
        assert sum(rival.outcomes.get("ok", 0) for rival in rivals) > ROUNDS, (
            "most of them had their way"
        )
