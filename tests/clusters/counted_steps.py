"""Chains of steps that note each of their attempts in a file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from perdure import App

NOTES = "PERDURE_TEST_NOTES"
STEP_S = 0.05

app = App("counted")


@app.activity
async def step(instance: str, number: int) -> int:
    await asyncio.sleep(STEP_S)
    # One write of a few bytes to the end of a file is not mixed with those of other processes.
    with Path(os.environ[NOTES]).open("a") as notes:
        notes.write(f"{os.getpid()} {instance} {number}\n")
    return number + 1


@app.workflow
async def steps(instance: str, count: int) -> int:
    number = 0
    for _ in range(count):
        number = await step(instance, number)
    return number
