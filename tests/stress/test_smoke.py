"""The stress suite in small: every result right, each recorded once, nothing kept in memory."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import pytest

from perdure import Client
from perdure.bench.shapes import SHAPES, Parallel, Payload, Shape, Starts, Steps
from perdure.bench.stress import Removal, Stress
from perdure.errors import StoreUnavailable, UsageError
from perdure.store import open_store

sys.path.insert(0, str(Path(__file__).parent))

from outcomes import activities_recorded

SMALL_PAYLOAD = Payload(
    outstanding=2, results=((2, 10), (2, 50), (2, 100)), children=2, activities=3
)
CELLS = [
    pytest.param(store, shape, seconds, id=f"{store}-{type(shape).__name__.lower()}")
    for shape, seconds in ((Parallel(5, 2, 5), 2), (SMALL_PAYLOAD, 0.5))
    for store in ("memory", "file")
]


@pytest.mark.parametrize(("kind", "shape", "seconds"), CELLS)
async def test_every_result_is_right_and_recorded_once(
    kind: str, shape: Shape, seconds: float, tmp_path: Path
) -> None:
    async with open_store(
        "memory://" if kind == "memory" else f"sqlite:///{tmp_path}/stress.db"
    ) as store:
        stress = Stress(shape, store, seconds=seconds)
        report = await stress.run()
        assert report.failures == {}
        assert report.success_percent == 100
        assert report.completed >= shape.outstanding
        recorded = await activities_recorded(Client.open(store), stress.prefix)
    assert recorded == report.completed * shape.per_instance
    assert report.activities_per_s == pytest.approx(recorded / report.took_s)
    assert report.took_s >= seconds
    assert report.residents == 0
    assert (report.store_mb is None) == (kind == "memory")
    assert (report.scale.disk_commits_per_s is None) == (kind == "memory")


async def test_large_payloads_leave_the_memory(tmp_path: Path) -> None:
    report = await Stress(
        Payload(outstanding=2), f"sqlite:///{tmp_path}/stress.db?synchronous=off", seconds=1.5
    ).run()
    assert report.failures == {}
    assert report.residents == 0
    assert report.store_mb is not None
    carried_mb = report.store_mb / 3
    assert report.use.rss_growth_mb < 5 + carried_mb / 2


@pytest.mark.parametrize("removal", ["at_once", "at_end"])
async def test_what_was_checked_can_be_removed(removal: Removal) -> None:
    async with open_store("memory://") as store:
        report = await Stress(SMALL_PAYLOAD, store, seconds=0.1, removal=removal).run()
        assert report.completed > 0
        assert report.failures == {}
        assert sum((await Client.open(store).counts()).values()) == 0


async def test_a_step_is_measured_from_one_activity_to_the_next() -> None:
    report = await Stress(Steps(outstanding=2, activities=10), seconds=0.2).run()
    assert report.steps_ms is not None
    assert 0 < report.steps_ms["p50"] <= report.steps_ms["p99"] <= report.steps_ms["max"]
    assert report.steps_ms["p50"] * 9 <= report.latency_ms["max"]


async def test_starts_have_no_activity() -> None:
    report = await Stress(Starts(outstanding=3), seconds=0.1).run()
    assert report.completed > 0
    assert report.activities_per_s == 0
    assert report.steps_ms is None


async def test_what_takes_too_long_is_a_failure_of_its_own_category(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PERDURE_STOP_MS", "0")
    report = await Stress(Parallel(2, 1, delay_ms=60_000), seconds=0.01, patience_s=0.05).run()
    assert (report.completed, report.failed, report.success_percent) == (0, 2, 0)
    assert report.failures["timeout"].count == 2
    assert "has not ended within 0.05 s" in report.failures["timeout"].first


async def test_a_wrong_result_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Starts().call(1)
    monkeypatch.setattr(
        Starts, "call", lambda self, number: right._replace(arguments=(number,), expected="seven")
    )
    report = await Stress(Starts(1), seconds=0.01).run()
    assert report.completed == 0
    assert "gave 1, not 'seven'" in report.failures["wrong result"].first


async def test_a_failing_activity_is_counted_by_the_category_of_its_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(delay_ms: float) -> float:
        raise ValueError(f"no nap of {delay_ms}")

    from perdure.bench.shapes import nap

    monkeypatch.setattr(nap.definition, "fn", fail)
    report = await Stress(Parallel(1, 1, 1), seconds=0.01).run()
    assert report.completed == 0
    assert "no nap of" in report.failures["application"].first


async def test_a_store_that_fails_ends_the_run_and_no_error_stays_unseen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unseen: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
    async with open_store("memory://") as store:
        taken = 0
        commit = store.commit

        async def fail_later(batch: list[object]) -> object:
            nonlocal taken
            taken += 1
            if taken > 5:
                raise StoreUnavailable("the disk is gone")
            return await commit(batch)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "commit", fail_later)
        monkeypatch.setenv("PERDURE_STORE_RETRY_MS", "0")
        report = await Stress(Starts(2), store, seconds=60).run()
    assert report.took_s < 30
    assert "the disk is gone" in report.failures["infrastructure"].first
    gc.collect()
    assert unseen == []


@pytest.mark.parametrize("shape", SHAPES.values())
def test_a_shape_of_nothing_is_refused(shape: type[Starts]) -> None:
    with pytest.raises(
        UsageError, match=f"outstanding of {shape.__name__.lower()} must be at least 1, got 0"
    ):
        shape(outstanding=0)


@pytest.mark.parametrize("times", [{"seconds": 0}, {"patience_s": -1}])
def test_a_run_without_time_is_refused(times: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="a run needs some time"):
        Stress(Starts(), **times)
