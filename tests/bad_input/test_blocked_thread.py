"""A workflow that blocks its thread in a call that nothing can interrupt: it is named, nothing is lost."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, logging, queue, sys
from perdure import App, NodeOptions
logging.basicConfig(level="WARNING", stream=sys.stderr)
app = App("shop")

@app.activity
async def charge(cents: int) -> int:
    return cents

@app.workflow
async def good(cents: int) -> int:
    await asyncio.sleep(0.05)
    return await charge(cents)

@app.workflow
async def bad() -> None:
    queue.SimpleQueue().get()  # the line

async def main(url: str, break_it: bool) -> None:
    async with app.node(url, options=NodeOptions(turn_limit_ms=100)) as node:
        if break_it:
            for n in range(3):
                await node.client.workflow(good, id=f"good-{n}").start(n)
            print("started", flush=True)
            await node.client.workflow(bad, id="bad-1").start()
        print([await node.client.get(f"good-{n}").result(timeout=30) for n in range(3)], flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2] == "break"))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return file


@contextlib.contextmanager
def running(program: Path, url: str, mode: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(program), url, mode]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killer = threading.Timer(
        20, process.kill
    )  # a program that says nothing must not hang the tests
    killer.start()
    try:
        yield process
    finally:
        killer.cancel()
        process.kill()
        process.communicate()


def test_the_process_names_the_line_and_what_was_acknowledged_is_there_after_a_restart(
    tmp_path: Path, program: Path
):
    url = f"sqlite:///{tmp_path}/shop.db"
    with running(program, url, "break") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "started\n"
        said = next((line for line in process.stderr if "cannot be interrupted" in line), "")
        assert "'bad-1'" in said
        line = PROGRAM.split("  # the line")[0].count("\n") + 1
        assert f"{program}:{line}" in said
        assert "activit" in said, "where blocking calls belong"
    with running(program, url, "restart") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "[0, 1, 2]\n"
