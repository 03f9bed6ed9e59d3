"""An activity in a process can ask and tell what one on a thread can: info, heartbeats, cancellation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import remote
from engine import until

from perdure import Limits, Node, NodeOptions

OPTIONS = NodeOptions(processes=1, grace_ms=500, stop_ms=10, limits=Limits(payload_bytes=10_000))


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with remote.app.node("memory://", options=OPTIONS) as running:
        yield running


async def test_its_info_is_that_of_a_thread(node: Node) -> None:
    in_process, on_thread = await node.client.workflow(remote.both, id="b").run()
    assert in_process == on_thread
    described = dict(zip(remote.PARTS, in_process, strict=False))
    assert described["instance"] == "b"
    assert described["attempt"] == 2
    assert described["queue"] == "q"
    assert in_process[-2] == {"row": 7}, "the heartbeat of the attempt before"


async def test_heartbeats_keep_it_alive(node: Node) -> None:
    assert await node.client.workflow(remote.call, id="h").run("beats", [8]) == "alive"


async def test_silence_ends_it(node: Node) -> None:
    assert "no heartbeat came (300 ms)" in await node.client.workflow(remote.call, id="s").run(
        "is_silent", []
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [(-1, "EncodeError: cannot encode"), (20_000, "PayloadTooLarge: the details of a heartbeat")],
)
async def test_details_that_cannot_be_kept_are_refused(node: Node, size: int, text: str) -> None:
    ended = await node.client.workflow(remote.call, id="d").run("heartbeat_of", [size])
    assert ended.startswith(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("asks_for_resources", "the app's resources are in that of the node"),
        ("asks_for_client", "belongs to the node's event loop"),
        ("asks_for_client_in_a_loop", "belongs to the node's event loop"),
    ],
)
async def test_what_belongs_to_the_node_is_refused_with_a_remedy(
    node: Node, name: str, text: str
) -> None:
    ended = await node.client.workflow(remote.call, id="r").run(name, [])
    assert ended.startswith("UsageError: activity.")
    assert text in ended


async def test_its_log_records_have_the_ids(node: Node) -> None:
    assert await node.client.workflow(remote.call, id="l").run("logs", []) == {
        "instance": "l",
        "activity": "logs",
        "attempt": 1,
    }


@pytest.mark.parametrize("name", ["polls", "awaits", "never_asks", "polls_until_its_timeout"])
async def test_a_cancel_reaches_it_and_no_later_attempt(
    node: Node, name: str, tmp_path: Path
) -> None:
    begun, told = tmp_path / "begun", tmp_path / "told"
    handle = node.client.workflow(remote.call, id="c")
    await handle.start(name, [str(begun), str(told)])
    if name != "polls_until_its_timeout":
        await until(begun.exists, "it has begun")
        await handle.cancel()
    await handle.wait(timeout=30)
    if name == "never_asks":
        told.touch()
    await until(told.exists, "it was told")
    later = await node.client.workflow(remote.call, id="l").run("is_not_cancelled", [])
    assert later == [False, int(begun.read_text())], "the process lives, and was not told again"


async def test_a_thread_that_is_left_behind_is_told_and_disturbs_no_other(node: Node) -> None:
    pid, *left = await node.client.workflow(remote.with_a_thread, id="t").run()
    assert left == [left[0], True, pid]
