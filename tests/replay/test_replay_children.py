"""Children: who they are, in the journal and for the store."""

from __future__ import annotations

import asyncio

import pytest
from replay.harness import FENCE, RUN, Rig, child, named, other, replied, started

from perdure import workflow
from perdure.codec import encode
from perdure.kernel.data import events as ev
from perdure.kernel.data import message as msg
from perdure.kernel.data.placement import check_id, child_id


def starts(rig: Rig) -> list[msg.Message]:
    return [m for m in rig.posted if isinstance(m.body, msg.Start)]


def test_a_child_is_named_after_its_parent_execution_and_command():
    async def main() -> str:
        return await other("x")

    rig = Rig(main)
    rig.start()
    assert rig.events[1] == child(1, "x", target=named(1))
    [start] = starts(rig)
    assert (start.to, start.sender) == (named(1), "w")
    assert isinstance(start.body, msg.Start)
    assert start.body.parent == ev.Parent("w", RUN, 1, 1)


def test_the_children_of_a_reused_id_are_others():
    async def main() -> str:
        other.detach("x")
        return await other("y")

    rig = Rig(main)
    rig.start()
    first = {m.to for m in starts(rig)}
    rig.posted.clear()
    body = msg.Start("main", None, encode([]), if_exists="replace")
    rig.mailbox.put(msg.Message(b"q" * 16, "w", body, rig.now))
    rig.unit.advance(rig.mailbox, rig.now, FENCE, b"d")
    assert rig.unit.run is not None
    second = {e.target for e in rig.unit.run.pending.values()}  # type: ignore[union-attr]
    assert len(first) == 2
    assert not first & second


def test_a_journal_of_an_older_release_keeps_its_names():
    """They had no part of the run's id. Such an execution goes on with them to its end."""

    async def main() -> list[str]:
        return [await other("x"), other.detach("y")]

    rig = Rig(main).store(started(flags=0), child(1, "x", target="w/1.1"))
    rig.turn(replied(1, "X"))
    assert rig.result == ["X", "w/1.2"]
    assert [m.to for m in starts(rig)] == ["w/1.2"]


@pytest.mark.parametrize("parent", ["p" * 512, "p" * 495, "é" * 256, "日" * 170, "a/" * 255])
def test_the_name_of_a_child_is_never_too_long_for_an_id(parent: str):
    name = child_id(parent, RUN, 7, 1_000_000)
    assert check_id(name) == name
    assert name.endswith("/72727272.7.1000000")
    assert name != child_id("x" + parent[1:], RUN, 7, 1_000_000)
    assert check_id(child_id(name, RUN, 1, 1)) != name


def test_a_name_that_was_given_is_used_as_it_is():
    async def main() -> str:
        return await workflow.child(other, id="ship-1")("x")

    rig = Rig(main)
    rig.start()
    assert [m.to for m in starts(rig)] == ["ship-1"]


def test_children_have_different_names():
    async def main() -> list[str]:
        return list(await asyncio.gather(other("a"), other("b"), other("a")))

    rig = Rig(main)
    rig.start()
    assert [m.to for m in starts(rig)] == [named(1), named(2), named(3)]
    assert len({m.id for m in starts(rig)}) == 3
    rig.turn(replied(3, "C"), replied(1, "A"), replied(2, "B"))
    assert rig.result == ["A", "B", "C"]


def test_a_child_keeps_its_name_and_run_over_a_load():
    async def main() -> str:
        return await other("x")

    rig = Rig(main)
    rig.start()
    [start] = starts(rig)
    rig.reload()
    rig.turn()
    assert starts(rig) == [start], "it is not started again"
    assert rig.unit.run is not None
    assert rig.unit.run.pending[1].run == start.id  # type: ignore[union-attr]
    rig.turn(replied(1, "X"))
    assert rig.result == "X"


@pytest.mark.parametrize("parent_close", ["cancel", "terminate", "abandon"])
def test_a_child_that_is_open_when_its_parent_ends_is_told(parent_close: str):
    async def main() -> None:
        _ = workflow.child(other, parent_close=parent_close)("x")  # type: ignore[arg-type]
        await asyncio.sleep(1)

    rig = Rig(main)
    rig.start()
    rig.posted.clear()
    rig.turn(after_ms=1_000)
    told = {"cancel": [msg.Cancel], "terminate": [msg.Terminate], "abandon": []}[parent_close]
    assert [type(m.body) for m in rig.posted] == told
    assert rig.status == "completed"


def test_a_reply_of_a_child_goes_to_the_execution_that_asked():
    rig = Rig(_twice)
    rig.start(0)
    rig.turn(replied(1, "first"))
    rig.turn()
    rig.turn(replied(1, "of the old execution"))
    assert rig.status == "running"
    assert [m.to for m in starts(rig)] == [named(1), named(1, execution=2)]


async def _twice(n: int) -> str:
    text = await other("x")
    if n == 0:
        workflow.continue_as_new(Rig.running, 1)
    return text


@pytest.fixture(autouse=True)
def _running(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `_twice` continues as: by name, so any definition of the name will do."""
    monkeypatch.setattr(Rig, "running", Rig(_twice).definition, raising=False)


def test_the_answer_to_a_start_under_a_taken_name_is_an_error_in_the_parent():
    async def main() -> str:
        return "I am here already"

    rig = Rig(main).store(started(), parent=None)
    parent = ev.Parent("boss", b"p" * 16, 1, 4)
    rig.turn(msg.Start("main", None, b"\x01\x91\x01", parent, "reject"))
    [reply] = [m for m in rig.posted if isinstance(m.body, msg.Reply)]
    assert isinstance(reply.body, msg.Reply)
    assert (reply.to, reply.body.seq, reply.body.run) == ("boss", 4, b"p" * 16)
    assert reply.body.failure is not None
    assert reply.body.failure.type == "AlreadyStarted"
    assert "the id 'w' is taken" in reply.body.failure.message
