"""Apps that grow while a node runs: from any thread, and by a notebook's cell that is run again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from perdure import App

CELLS = """
from perdure import App
app = App("cells")
CELL = '''
@app.activity
async def step() -> int: return RESULT
@app.workflow
async def flow() -> int: return await step()
'''
with app.node("memory://").sync() as node:
    for result in ("1", "2"):
        exec(CELL.replace("RESULT", result))
        print(node.client.workflow(flow, id="f" + result).run())
"""


def define_later(app: App) -> None:
    @app.workflow
    async def later(n: int) -> int:
        return n


@pytest.mark.parametrize("on_a_thread", [False, True])
async def test_a_definition_from_any_thread_wakes_the_instances_that_wait_for_it(
    on_a_thread: bool,
) -> None:
    app = App("grows")
    async with app.node("memory://") as node:
        handle = node.client.workflow("later", id="l")
        await handle.start(3)
        waiting = asyncio.create_task(handle.result(timeout=30, through_suspension=True))
        if on_a_thread:
            await asyncio.to_thread(define_later, app)
        else:
            define_later(app)
        assert await waiting == 3


def test_a_definition_beside_a_synchronous_node_wakes_the_instances_that_wait_for_it() -> None:
    app = App("grows")
    with app.node("memory://").sync() as node:
        handle = node.client.workflow("later", id="l")
        handle.start(3)
        define_later(app)
        assert handle.result(timeout=30, through_suspension=True) == 3


def test_a_cell_that_is_run_again_replaces_its_definitions() -> None:
    # Like a notebook, a program that is given by `-c` has no file.
    done = subprocess.run(
        [sys.executable, "-c", CELLS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["1", "2"], "")


def test_a_program_defines_each_name_once(tmp_path: Path) -> None:
    program = tmp_path / "cells.py"
    program.write_text(CELLS)
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60, check=False
    )
    assert "app 'cells' has an activity 'step' already" in done.stderr
