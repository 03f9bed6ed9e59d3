"""An instance that kills its process again and again is set aside; the others go on; `retry` releases it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdure import Client

PROGRAM = Path(__file__).with_name("poisonous.py")
GOOD = 5
DEATHS_MAX = 6
"""Three crashes make suspects; finding the one among them may take a few more."""


def run_program(url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), url]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=40
    )


async def post_work(url: str, bad: str) -> None:
    """As a client in another process: the work stands in the file before any node runs."""
    async with Client.open(url) as client:
        await client.workflow(bad, id="bad").start()
        if bad == "dies_of_mail":
            await client.get("bad").send("mail", "boo")
        for n in range(GOOD):
            await client.workflow("good", id=f"good-{n}").start(n)


def run_until_it_lives(url: str) -> tuple[int, subprocess.CompletedProcess[str]]:
    for deaths in range(DEATHS_MAX + 1):
        done = run_program(url)
        if done.returncode != 9:
            return deaths, done
    pytest.fail(f"the program died {DEATHS_MAX + 1} times: nothing was set aside")


@pytest.mark.parametrize("bad", ["calls_death", "dies_later", "dies_at_once", "dies_of_mail"])
def test_what_kills_its_process_is_set_aside_and_retry_releases_it(tmp_path: Path, bad: str) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    asyncio.run(post_work(url, bad))
    deaths, done = run_until_it_lives(url)
    assert done.returncode == 0, done.stderr
    assert deaths >= 3, "three crashes are allowed"
    assert done.stdout.split() == ["suspended", "poison"]

    async def describe_and_retry() -> str:
        async with Client.open(url) as client:
            failure = (await client.get("bad").describe()).failure
            await client.get("bad").retry()
        assert failure is not None
        return failure.message

    message = asyncio.run(describe_and_retry())
    assert "'bad'" in message
    assert "retry" in message
    mended = run_program(url, MENDED="1")
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.split() == ["completed", "None"]


def test_a_poisoned_instance_is_not_run_again_by_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    asyncio.run(post_work(url, "calls_death"))
    run_until_it_lives(url)
    again = run_program(url)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == ["suspended", "poison"]
