"""An app whose activity runs in another process: it must be importable there."""

from __future__ import annotations

import os

from perdure import App

app = App("cpu")


@app.activity(executor="process")
def burn(n: int) -> list[int]:
    return [sum(range(n)), os.getpid()]


@app.activity(executor="process")
def fail(text: str) -> None:
    raise LookupError(text)


@app.workflow
async def crunch(n: int) -> list[int]:
    return await burn(n)


@app.workflow
async def break_down(text: str) -> None:
    await fail(text)
