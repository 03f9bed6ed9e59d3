"""What `flaw_of` lets pass and the database refuses is a defect: it is loud, and fails one commit alone."""

from __future__ import annotations

import logging

import pytest

from perdure.kernel.data.commit import Commit, Fence, UnitRow
from perdure.kernel.data.message import Message, Send
from perdure.ports.store import Units
from perdure.store.derived import parts_of
from perdure.store.sqlite import SQLiteStore
from perdure.testing.conformance import Scenario
from perdure.testing.conformance.scenario import chunk


async def test_a_row_that_should_not_be_there_fails_its_commit_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with SQLiteStore() as store:
        scenario = Scenario(store)
        await scenario.claim()
        await store.inspect("INSERT INTO journal VALUES ('order', x'', 1, 1, 1, x'00')")
        batch = [scenario.commit(f"unit-{n}") for n in range(9)]
        batch.insert(4, scenario.commit("order", journal=[chunk()]))
        with caplog.at_level(logging.CRITICAL, "perdure.store"):
            verdicts = await scenario.apply(*batch)
        assert verdicts == ["applied"] * 4 + ["invalid"] + ["applied"] * 5
        (record,) = caplog.records
        assert "a commit of 'order' cannot be written, which is a defect" in record.getMessage()
        assert len(await scenario.all(Units())) == 9


def commit(unit: str, *targets: str) -> Commit:
    row = UnitRow(unit, "default/0", "workflow", "t", "1.0.0", b"run")
    post = [Message(b"m", to, Send("c", b""), 1) for to in targets]
    return Commit(b"id", Fence("default/0", 1, "n"), 1, unit, 0, row, post=post)


def parts(*batches: list[Commit]) -> list[list[str]]:
    return [[one.unit for one in part] for part in parts_of(batches)]


def test_a_batch_is_one_part_whoever_writes_to_whom() -> None:
    assert parts([commit("a", "b"), commit("b", "a")]) == [["a", "b"]]


def test_batches_that_do_not_meet_are_written_together() -> None:
    assert parts([commit("a", "x")], [commit("b", "x")]) == [["a", "b"]]


def test_a_unit_waits_for_messages_of_an_earlier_batch() -> None:
    assert parts([commit("a", "b")], [commit("c")], [commit("b"), commit("d")], [commit("e")]) == [
        ["a", "c"],
        ["b", "d", "e"],
    ]


def test_two_commits_of_one_unit_are_two_parts() -> None:
    assert parts([commit("a")], [commit("a")]) == [["a"], ["a"]]
    assert parts([commit("a"), commit("b"), commit("a")]) == [["a", "b"], ["a"]]
