"""Every way in which a function can end is an outcome that the workflow hears of, whatever kind of function it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import ways

from perdure import Limits, Node, NodeOptions
from perdure.codec.failure import failure_of
from perdure.errors import ApplicationError

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def options() -> NodeOptions:
    return NodeOptions(limits=Limits(payload_bytes=ways.LIMIT), processes=1, stop_ms=10)


@pytest.fixture
async def node(options: NodeOptions) -> AsyncIterator[Node]:
    async with ways.app.node("memory://", options=options) as running:
        yield running


@pytest.mark.parametrize("way", ways.WAYS)
@pytest.mark.parametrize("timeout", [None, 60.0], ids=["", "within a timeout"])
@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_an_activity(node: Node, kind: str, way: str, timeout: float | None) -> None:
    _, name, text, again = ways.WAYS[way]
    ended = await asyncio.wait_for(
        node.client.workflow(ways.call, id=way).run(kind, way, timeout), 10
    )
    assert (ended[0], ended[2]) == (name, again)
    assert text in ended[1]


async def test_an_activity_in_a_process(node: Node) -> None:
    for way, (_, name, text, again) in ways.WAYS.items():
        ended = await asyncio.wait_for(
            node.client.workflow(ways.call, id=way).run("process", way, None), 20
        )
        assert (way, ended[0], ended[2]) == (way, name, again)
        assert text in ended[1]


@pytest.mark.parametrize(
    "way", ["no words", "no base", "no base, no delay", "odd type", "indescribable"]
)
async def test_the_workflow_itself(node: Node, way: str) -> None:
    _, name, text, _ = ways.WAYS[way]
    handle = node.client.workflow(ways.ends, id="w")
    await handle.start(way)
    ended = await handle.wait(timeout=10)
    assert ended.failure is not None, ended
    assert ended.failure.type == name
    assert text in ended.failure.message


@pytest.mark.parametrize("way", [way for way in ways.WAYS if way != "forgotten await"])
@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_checkpoint(node: Node, kind: str, way: str) -> None:
    _, name, text, _ = ways.WAYS[way]
    ended = await asyncio.wait_for(node.client.workflow(ways.step, id=way).run(kind, way), 30)
    assert ended[0] == name
    assert text in ended[1]
    assert (await node.client.get(way).describe()).history_bytes < ways.LIMIT


async def test_what_a_def_checkpoint_returns_is_awaited_once(node: Node) -> None:
    assert await node.client.workflow(ways.step, id="d").run("def", "forgotten await") == [
        "result",
        None,
    ]
    ended = await node.client.workflow(ways.step, id="a").run("async def", "forgotten await")
    assert ended[0] == "EncodeError"


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_an_interrupt_that_does_not_come_from_the_keyboard_is_a_failure(
    node: Node, kind: str
) -> None:
    ended = await asyncio.wait_for(
        node.client.workflow(ways.call, id="k").run(kind, "interrupt", None), 20
    )
    assert ended[0] == "KeyboardInterrupt"


KEYBOARD = """
import asyncio, sys
from perdure import App, workflow
app, lives = App("k"), int(sys.argv[1])
def act():
    if lives == 1:
        raise KeyboardInterrupt
    return "done"
@app.activity
async def interrupted() -> str:
    return act()
@app.workflow
async def by_activity() -> str:
    return await interrupted()
@app.workflow
async def by_checkpoint() -> str:
    return await workflow.checkpoint("c", act)
async def main():
    async with app.node("sqlite:///k.db") as node:
        print(await node.client.workflow(sys.argv[2], id=sys.argv[2]).run())
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("which", ["by_activity", "by_checkpoint"])
def test_the_keyboard_ends_the_program_and_the_attempt_runs_again(
    tmp_path: Path, which: str
) -> None:
    for life, expected in (("1", "interrupted"), ("2", "done")):
        done = subprocess.run(
            [sys.executable, "-c", KEYBOARD, life, which],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.stdout.strip() == expected, done.stderr


def test_large_details_are_replaced_by_a_note_also_behind_a_long_message() -> None:
    failure = failure_of(ApplicationError("m" * 100_000, details="x" * 1_000), details_max=100)
    assert failure.details is None
    assert failure.message.endswith(
        "(Limits.payload_bytes); store them elsewhere and give a reference)"
    )
