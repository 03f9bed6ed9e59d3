"""A `breakpoint()` in a workflow may stand for longer than a turn may take, and for as long as one likes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import asyncio
from perdure import App, NodeOptions

app = App("debugged")

@app.activity
async def step(n: int) -> int:
    return n + 1

@app.workflow
async def look(n: int) -> int:
    m = await step(n)
    breakpoint()
    m = m * 10
    return await step(m)

async def main() -> None:
    options = NodeOptions(turn_limit_ms=100)
    async with app.node("sqlite:///d.db", options=options) as node:
        print("RESULT", await node.client.workflow(look, id="w").run(1), flush=True)

asyncio.run(main())
"""

# Several times the limit of a turn.
LOOKED_AT_S = 0.4


def test_a_breakpoint_in_a_workflow_may_stand(tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, "look.py"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as program:
        try:
            shown = _debugged(program, "p ('m is', m)", "n", "c")
        finally:
            program.kill()
    assert "('m is', 2)" in shown
    assert "RESULT 21" in shown
    # The watchdog has said nothing.
    assert "failed" not in shown
    assert "exceeded" not in shown


def _debugged(program: subprocess.Popen[str], *commands: str) -> str:
    """Give each command after a look at the prompt, and return all that was printed."""
    assert program.stdin is not None
    assert program.stdout is not None
    shown = ""
    for command in commands:
        while not shown.endswith("(Pdb) "):
            more = program.stdout.read(1)
            assert more, shown
            shown += more
        time.sleep(LOOKED_AT_S)
        program.stdin.write(f"{command}\n")
        program.stdin.flush()
        shown += "\n"
    return shown + program.communicate(timeout=30)[0]
