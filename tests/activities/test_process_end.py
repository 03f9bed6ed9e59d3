"""A program ends when its node has stopped, although functions of activities do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, sys, time
from perdure import ActivityError, App, NodeOptions, RetryPolicy
app = App("hanging")

@app.activity
def on_thread(mark: str) -> None:
    open(mark, "w").close()
    time.sleep(600)

@app.activity(timeout=0.05)
def timed_out(mark: str) -> None:
    open(mark, "w").close()
    time.sleep(600)

@app.activity(executor="process")
def in_process(mark: str) -> None:
    open(mark, "w").close()
    time.sleep(600)

CALLS = {"on_thread": on_thread, "timed_out": timed_out, "in_process": in_process}

@app.workflow
async def calling(name: str) -> None:
    await CALLS[name](name)

async def main() -> None:
    options = NodeOptions(stop_ms=100, grace_ms=50)
    async with app.node("sqlite:///x.db", options=options) as node:
        for name in CALLS:
            await node.client.workflow(calling, id=name).start(name)
        import os
        while not all(map(os.path.exists, CALLS)):
            await asyncio.sleep(0.01)
        ended = await node.client.get("timed_out").wait()
        print(ended.status, flush=True)
    print("main is over", flush=True)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_functions_that_hang_hold_no_program_up(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    # They sleep for ten minutes. A program that waited for one of them would be killed here.
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["failed", "main is over"], done.stderr
    assert done.returncode == 0, done.stderr
    assert "the node stops without attempts that do not end" in done.stderr
    assert "Traceback" not in done.stderr
