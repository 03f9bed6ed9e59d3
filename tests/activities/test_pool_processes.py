"""Processes of the pool: the death of one concerns its own attempt only, and none outlives its node."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ways
from engine import until

from perdure import NodeOptions
from perdure.node.activities import process

OPTIONS = NodeOptions(processes=2, stop_ms=10, grace_ms=50)


def lives(pid: int) -> bool:
    """Whether there is a process that could still act (a zombie cannot)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_process_that_dies_is_replaced_and_takes_no_other_attempt_with_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "marks").mkdir()
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    async with ways.app.node("memory://", options=OPTIONS) as node:
        handle = node.client.workflow(ways.neighbours, id="n")
        await handle.start(str(tmp_path / "marks"), 2, str(gate), str(mark))
        async with asyncio.timeout(30):
            while len(os.listdir(tmp_path / "marks")) < 3 or not mark.exists():
                await asyncio.sleep(0.01)
        pid = int(mark.read_text())
        gate.touch()
        assert await handle.result(timeout=20) == ["alive", pid], (
            "the neighbour began once, and in one process"
        )
        assert node.metrics.attempts == 2, "to lose a process is no attempt of the retry policy"


async def test_an_attempt_that_loses_one_process_after_the_other_fails(tmp_path: Path) -> None:
    async with ways.app.node("memory://", options=OPTIONS) as node:
        ended = await asyncio.wait_for(
            node.client.workflow(ways.dying, id="d").run(str(tmp_path), 99), 40
        )
    assert ended[:2] == ["ProcessLost", "infrastructure"]
    assert (
        "3 processes were lost with it, one after the other; the last one: it ended with exit code 9"
        in ended[2]
    )
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGRTMIN + 6])
async def test_an_attempt_whose_processes_are_killed_fails_whatever_the_signal(number: int) -> None:
    async with ways.app.node("memory://", options=OPTIONS) as node:
        running = node.client.workflow(ways.signalled, id="s").run(int(number))
        ended = await asyncio.wait_for(running, 40)
    assert ended[0] == "ProcessLost"
    assert f"killed by {'SIGKILL' if number == signal.SIGKILL else 'signal'}" in ended[1]


async def test_a_process_whose_result_nobody_wants_is_killed_after_the_grace(
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mark"
    async with ways.app.node("memory://", options=OPTIONS) as node:
        handle = node.client.workflow(ways.waiting, id="w")
        await handle.start(str(tmp_path / "never"), str(mark))
        async with asyncio.timeout(20):
            while not mark.exists():
                await asyncio.sleep(0.01)
        pid = int(mark.read_text())
        assert lives(pid)
        await handle.cancel()
        await until(lambda: not lives(pid), "the end of the process")
        await until(lambda: node.metrics.running == 0, "its slot")


async def test_signals_to_the_whole_group_are_left_to_the_node(tmp_path: Path) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    async with ways.app.node("memory://", options=OPTIONS) as node:
        handle = node.client.workflow(ways.waiting, id="w")
        await handle.start(str(gate), str(mark))
        async with asyncio.timeout(20):
            while not mark.exists():
                await asyncio.sleep(0.01)
        pid = int(mark.read_text())
        os.kill(pid, signal.SIGTERM)  # service managers
        os.kill(pid, signal.SIGINT)  # terminals
        gate.touch()
        assert await handle.result(timeout=30) == pid


NODE = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import ways
async def main():
    async with ways.app.node("memory://") as node:
        print(await node.client.workflow(ways.call, id="c").run("process", "exception"), flush=True)
        await node.client.workflow(ways.waiting, id="w").run(sys.argv[2], sys.argv[3])
if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_no_process_outlives_a_node_that_was_killed(tmp_path: Path) -> None:
    mark, program = tmp_path / "mark", tmp_path / "program.py"
    program.write_text(NODE)
    here = str(Path(__file__).parent)
    node = subprocess.Popen(
        [sys.executable, str(program), here, str(tmp_path / "never"), str(mark)]
    )
    try:
        async with asyncio.timeout(30):
            while not mark.exists():
                await asyncio.sleep(0.01)
        pid = int(mark.read_text())
        assert lives(pid)
    finally:
        node.kill()
        node.wait()
    await until(lambda: not lives(pid), "the end of the process, which was at work")


def test_a_process_whose_node_is_gone_before_it_is_ready_ends_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    started = context.Process(target=process.serve, args=(theirs,))
    ours.close()  # as the kill of a node closes it
    started.start()
    started.join(30)
    assert started.exitcode == 0
    assert capfd.readouterr().err == ""
