"""Each workload asks for the right work, checks the answers and gives the figures that the report expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from benchmarks.engine import FAILED, PAYLOAD
from benchmarks.lives import FIRST, first_life, second_life
from benchmarks.loads import LOADS, WrongResult, bounded, run_load
from benchmarks.workloads import BY_NAME, WORKLOADS
from fake_engine import FakeEngine

SMALL: Mapping[str, Mapping[str, float]] = {
    "W1": {"workflows": 20, "in_flight": 5, "singles": 4},
    "W2": {"steps_alone": 6, "chains": 3, "steps": 4},
    "W3": {"width": 7},
    "W4": {"steps": 40},
    "W5": {"workflows": 5, "in_flight": 5, "seconds": 1},
    "W6": {"workflows": 4, "steps": 6},
    "W7": {"workflows": 4, "settle_s": 0, "idle_s": 0},
    "REPLAY": {"steps": 5, "settle_s": 0, "from_open": 0},
    "CPU": {"chains": 3, "steps": 4},
    "IDLE": {"settle_s": 0, "seconds": 0},
    "P": {"outstanding": 2, "width": 3, "seconds": 0.001},
}
# How many activities each of them executes.
CALLS = {"W1": 24, "W2": 6 + 12, "W3": 7, "W4": 40, "W5": 0, "CPU": 12, "IDLE": 0}


def metrics(workload: str) -> set[str]:
    return {metric.key for metric in BY_NAME[workload].metrics}


def test_every_workload_that_is_reported_can_be_run_and_the_other_way_round() -> None:
    assert {*LOADS, *FIRST, "LIMITS"} == {workload.name for workload in WORKLOADS}
    assert set(SMALL) == {*LOADS, *FIRST}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_sizes_are_those_that_the_workload_reads(name: str) -> None:
    assert set(BY_NAME[name].sizes) == set(SMALL[name])


@pytest.mark.parametrize("name", sorted(LOADS))
async def test_a_workload_gives_its_figures_and_closes_the_node(name: str, tmp_path: Path) -> None:
    engine = FakeEngine()
    figures = await run_load(engine, name, tmp_path, SMALL[name])
    assert set(figures) == metrics(name)
    assert all(value >= 0 for value in figures.values())
    assert (engine.opened, engine.closed) == (1, 1)
    if name in CALLS:
        assert len(engine.calls.times) == CALLS[name]


@pytest.mark.parametrize("name", sorted(FIRST))
async def test_a_workload_with_two_lives_goes_on_where_the_first_ended(
    name: str, tmp_path: Path
) -> None:
    first = FakeEngine()
    figures = await first_life(first, name, tmp_path, SMALL[name])
    assert first.closed == 0, "the first life ends by a kill"
    second = FakeEngine()
    if name == "REPLAY":
        # The fake has no journal: it would execute the chain again, which the workload must notice.
        with pytest.raises(WrongResult, match="executed again"):
            await second_life(second, name, tmp_path, SMALL[name], 0.0)
        return
    figures |= await second_life(second, name, tmp_path, SMALL[name], 0.0)
    assert set(figures) == metrics(name)
    assert second.closed == 1


async def test_all_workflows_are_half_way_when_the_first_life_of_w6_may_be_killed(
    tmp_path: Path,
) -> None:
    engine = FakeEngine(stall_after=12)
    figures = await first_life(engine, "W6", tmp_path, SMALL["W6"])
    assert figures["midway"] == 4
    assert len(engine.calls.payloads) < 24
    await engine.close()


@pytest.mark.parametrize("name", ["W1", "W2", "W4", "CPU"])
async def test_a_wrong_answer_is_no_figure(name: str, tmp_path: Path) -> None:
    with pytest.raises(WrongResult, match="nonsense"):
        await run_load(FakeEngine(wrong=True), name, tmp_path, SMALL[name])


async def test_workflows_that_the_engine_lost_are_counted(tmp_path: Path) -> None:
    class Lossy(FakeEngine):
        async def run(self, shape: str, id: str, *arguments: object) -> object:
            result = await super().run(shape, id, *arguments)
            if id.startswith("w1-single"):
                self.lost.append(id)
                return FAILED
            return result

    figures = await run_load(Lossy(), "W1", tmp_path, SMALL["W1"])
    assert figures["lost"] == 4


async def test_bounded_runs_each_once_and_never_more_than_the_limit() -> None:
    running = most = 0
    seen: list[int] = []
    engine = FakeEngine()

    async def one(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await engine.work("chain", "x", 3, PAYLOAD)
        running -= 1
        seen.append(number)

    await bounded(10, 3, one)
    assert sorted(seen) == list(range(10))
    assert most == 3


def test_a_quick_run_is_never_larger_and_a_peer_gets_its_own_sizes() -> None:
    w1 = BY_NAME["W1"]
    assert w1.sizes_for("perdure", quick=False)["workflows"] == 1000
    assert w1.sizes_for("dbos", quick=False)["workflows"] == 500
    assert w1.sizes_for("dbos", quick=True)["in_flight"] == 100
    for workload in WORKLOADS:
        for family in ("perdure", "dbos", "duroxide"):
            full = workload.sizes_for(family, quick=False)
            assert all(
                value <= full[key] for key, value in workload.sizes_for(family, quick=True).items()
            )
