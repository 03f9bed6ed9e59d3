"""An instance that kills its process again and again is set aside; the others go on; `retry` releases it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from poisonous import GOOD, Process

from perdure import Client
from perdure.errors import InboxFull

DEATHS_MAX = 20
"""Three crashes make candidates, halving finds the one among them, and it has to die alone three times. One that takes
longer than a trial needs a second round.
"""


LIFE_S = 100
"""No life takes more than a second on a quiet machine."""


@dataclass
class Ended:
    """How a life ended, and what it said last."""

    code: int
    said: str


def run_life(url: str, *, mended: bool = False) -> Ended:
    process = Process(url, mended)
    said = ""
    with suppress(EOFError):
        while process.lines.poll(LIFE_S):
            said = process.lines.recv()
    return Ended(process.wait(LIFE_S), said)


async def post_work(url: str, bad: str, innocents: int = 0) -> None:
    """As a client in another process: the work stands in the file before any node runs."""
    async with Client.open(url) as client:
        await client.workflow(bad, id="bad").start()
        if bad == "dies_of_mail":
            await client.get("bad").send("mail", "boo")
        for n in range(GOOD):
            await client.workflow("good", id=f"good-{n}").start(n)
        for n in range(innocents):
            await client.workflow("innocent", id=f"innocent-{n}").start()


def run_until_it_lives(url: str) -> tuple[int, Ended]:
    for deaths in range(DEATHS_MAX + 1):
        done = run_life(url)
        if done.code != 9:
            return deaths, done
    pytest.fail(f"the process died {DEATHS_MAX + 1} times: nothing was set aside")


BOMBS = [
    "calls_death",
    "dies_later",
    "dies_at_once",
    "dies_of_mail",
    "dies_of_time",
    "dies_at_a_checkpoint",
]


@pytest.mark.parametrize("bad", BOMBS)
def test_what_kills_its_process_is_set_aside_and_retry_releases_it(
    tmp_path: Path, bad: str
) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    asyncio.run(post_work(url, bad))
    deaths, done = run_until_it_lives(url)
    assert done.code == 0
    assert deaths >= 3, "three crashes are allowed"
    assert done.said == "suspended poison"

    async def describe_and_retry() -> str:
        async with Client.open(url) as client:
            failure = (await client.get("bad").describe()).failure
            await client.get("bad").retry()
        assert failure is not None
        return failure.message

    message = asyncio.run(describe_and_retry())
    assert "'bad' ran alone at 3 crashes" in message
    assert "retry" in message
    mended = run_life(url, mended=True)
    assert mended.code == 0
    assert mended.said == "completed None"


def test_a_poisoned_instance_is_not_run_again_by_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    asyncio.run(post_work(url, "calls_death"))
    run_until_it_lives(url)
    again = run_life(url)
    assert again.code == 0
    assert again.said == "suspended poison"


@pytest.mark.parametrize("bad", ["calls_death", "dies_slowly"])
def test_one_among_thirty_is_found_and_the_others_go_on(tmp_path: Path, bad: str) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    asyncio.run(post_work(url, bad, innocents=30))
    _, done = run_until_it_lives(url)
    assert done.code == 0
    assert done.said == "suspended poison"
    assert asyncio.run(set_aside(url)) == ["bad"]


async def set_aside(url: str) -> list[str]:
    async with Client.open(url) as client:
        return [d.id for d in await client.list(status="suspended", limit=None)]


def test_one_that_gets_mail_all_the_time_is_found(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    asyncio.run(post_work(url, "calls_death"))

    async def pester(over: asyncio.Event) -> None:
        async with Client.open(url) as client:
            while not over.is_set():
                with suppress(InboxFull):
                    await client.get("bad").send("nobody listens", 1)
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 0.002)

    async def both() -> Ended:
        over = asyncio.Event()
        pestering = asyncio.create_task(pester(over))
        try:
            return (await asyncio.to_thread(run_until_it_lives, url))[1]
        finally:
            over.set()
            await pestering

    done = asyncio.run(both())
    assert done.code == 0
    assert done.said == "suspended poison"
