"""A comment that silences the lint silences the guard, too: for its line, and for the codes that it names."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from perdure import App, WorkflowFailed
from perdure.errors import WorkflowViolation

right, wrong = App("right"), App("wrong")


@right.workflow
async def tolerated(kind: str) -> str:
    time.time()  # perdure: ignore[PD101]
    path = Path(__file__)
    if kind == "here":
        text = path.read_text("utf-8")  # it is meant so  # perdure: ignore[PD201, PD202]
        return text[:3]
    return path.read_text(encoding="utf-8")


@wrong.workflow
async def refused() -> float:
    return time.time()  # perdure: ignore[PD201]


async def test_a_line_with_the_code_is_let_through_when_the_node_starts_and_when_it_runs() -> None:
    async with right.node("memory://") as node:
        assert await node.client.workflow(tolerated, id="a").run("here") == '"""'
        with pytest.raises(
            WorkflowFailed,
            match=r"inside a workflow, at .*test_ignored\.py:23: replay would repeat it",
        ):
            await node.client.workflow(tolerated, id="b").run("elsewhere")


async def test_another_code_does_not_help() -> None:
    with pytest.raises(WorkflowViolation, match=r"PD101 time\.time in workflow 'refused'"):
        async with wrong.node("memory://"):
            raise AssertionError
