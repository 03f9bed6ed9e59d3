"""The program of test_worker_processes.py: activities that note where they run, and may last."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from perdure import App, activity

app = App("rendering")
app.queue("gpu", per_node=20)

NOTES = Path(os.environ.get("RENDERING_NOTES", "notes.txt"))


def note(what: str) -> None:
    """Append a line, in one write."""
    descriptor = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what} {os.getpid()}\n".encode())
    os.close(descriptor)


@app.activity(queue="gpu")
async def render(film: str, frame: int) -> str:
    note(f"{film}/{frame}")
    await asyncio.sleep(0.02)
    return f"{film}/{frame}"


@app.activity(queue="gpu")
def lasting(seconds: float) -> int:
    note(f"begun/{activity.info().attempt}")
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not activity.is_cancelled():
        time.sleep(0.01)
    return os.getpid()


@app.workflow
async def film(name: str, frames: int) -> list[str]:
    return list(await asyncio.gather(*[render(name, n) for n in range(frames)]))


@app.workflow
async def long_take(seconds: float) -> int:
    return await lasting(seconds)
