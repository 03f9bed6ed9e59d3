"""The statistics are right, and the page says what was measured, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.contenders import CONTENDERS, DEFAULT
from benchmarks.report import BEGIN, END, Run, advantage, insert, render
from benchmarks.required import REQUIREMENTS
from benchmarks.summary import Summary, percentile, significant
from benchmarks.workloads import Metric

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def run_with(**engines: dict[str, dict[str, list[float]]]) -> Run:
    run = Run("python -m benchmarks", "2026-01-02", {"cores": "2"}, list(engines))
    for engine, workloads in engines.items():
        run.about[engine] = {"engine": f"{engine} 1.0"}
        for workload, metrics in workloads.items():
            run.sizes[engine, workload] = {}
            for metric, values in metrics.items():
                for number, value in enumerate(values):
                    run.add(engine, workload, number, {metric: value})
    return run


def row(page: str, start: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile([7.0], 99) == 7
    assert percentile([3.0, 1.0, 2.0], 0) == 1
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def test_a_summary_is_the_median_and_the_extremes() -> None:
    summary = Summary({1: 9.0, 2: 1.0, 3: 5.0})
    assert (summary.median, summary.lowest, summary.highest, summary.rounds) == (5.0, 1.0, 9.0, 3)
    assert Summary({1: 1.0, 2: 2.0}).median == 1.5
    with pytest.raises(ValueError, match="nothing"):
        Summary({})


def test_a_ratio_compares_within_rounds_so_that_a_bad_moment_hits_both() -> None:
    ours, theirs = Summary({1: 100.0, 2: 10.0, 4: 7.0}), Summary({1: 50.0, 2: 5.0, 3: 1000.0})
    assert ours.over(theirs) == 2.0
    with pytest.raises(KeyError, match="no round has both"):
        ours.over(Summary({9: 1.0}))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345.6, "12,300"),
        (999.6, "1,000"),
        (123.4, "123"),
        (1.25, "1.25"),
        (10.0, "10"),
        (0.01234, "0.0123"),
        (0.0000123, "0.0000123"),
        (100_000, "100,000"),
        (-2.5, "-2.5"),
    ],
)
def test_figures_have_three_digits_that_mean_something(value: float, text: str) -> None:
    assert significant(value) == text


def test_an_advantage_looks_in_the_direction_that_is_good() -> None:
    ten, forty = Summary({1: 10}), Summary({1: 40})
    assert advantage(Metric("x", "x", "higher"), forty, ten) == "4×"
    assert advantage(Metric("x", "x", "lower"), ten, forty) == "4×"
    assert advantage(Metric("x", "x", "higher"), ten, forty) == "0.25×"
    assert advantage(Metric("x", "x", None), ten, forty) == ""
    assert advantage(Metric("x", "x", "higher"), None, ten) == ""
    assert advantage(Metric("x", "x", "lower"), Summary({1: 0}), ten) == ""


def test_the_page_compares_medians_and_judges_them() -> None:
    page = render(
        run_with(
            perdure={"W1": {"workflows_per_s": [5000.0, 9000.0, 6000.0]}},
            dbos={"W1": {"workflows_per_s": [100.0, 120.0, 90.0]}},
        )
    )
    assert row(page, "| **W1**")[2:] == ["6,000 [5,000 – 9,000]", "100 [90 – 120]", "67×"]
    assert row(page, "| W1 against DBOS")[3:] == ["66.7 ×", "met"]
    assert row(page, "| W1 |")[3:] == ["6,000 workflows/s", "met"]
    assert row(page, "| W3 |")[3:] == ["", "not measured"]
    assert "dbos 1.0" in page
    assert "2026-01-02" in page


def test_a_missed_requirement_is_called_missed_and_a_reached_aim_is_named() -> None:
    page = render(
        run_with(perdure={"W3": {"activities_per_s": [14_000.0]}, "W4": {"growth": [0.9]}})
    )
    assert row(page, "| W3 |")[-1] == "missed"
    assert row(page, "| W4, last 100")[-1] == "met, and the aim"


def test_failures_and_lost_workflows_are_on_the_page() -> None:
    run = run_with(duroxide={"W1": {"workflows_per_s": [50.0], "lost": [3.0]}})
    run.sizes["duroxide", "W3"] = {}
    run.failures["duroxide", "W3"] = "no result in 400 s"
    page = render(run)
    assert row(page, "| **W3**")[2] == "failed"
    assert "W3, duroxide: a round failed (no result in 400 s)" in page
    assert "up to 3 of its workflows ended as failed" in page


def test_smaller_sizes_of_a_peer_are_admitted() -> None:
    run = run_with(dbos={"W4": {"first_ms": [4.0]}})
    run.sizes["dbos", "W4"] = {"steps": 2000}
    assert "W4, DBOS, WAL FULL: 2000 steps instead of 5000." in render(run)


def test_only_the_part_between_the_marks_is_replaced() -> None:
    page = f"# Title\n\nby hand\n\n{BEGIN}\nold\n{END}\n\nalso by hand\n"
    once = insert(page, "new")
    assert once == f"# Title\n\nby hand\n\n{BEGIN}\n\nnew\n\n{END}\n\nalso by hand\n"
    assert insert(once, "new") == once
    with pytest.raises(ValueError, match="marks"):
        insert("# Title\n", "new")


def test_every_requirement_holds_or_fails_by_its_own_limit() -> None:
    for requirement in REQUIREMENTS:
        over, under = requirement.limit * 1.01, requirement.limit * 0.99
        good, bad = (over, under) if requirement.direction == "at least" else (under, over)
        assert requirement.verdict(bad) == "missed"
        assert requirement.verdict(good).startswith("met")
        assert requirement.row({})[-1] == "not measured"


def test_the_default_engines_exist_and_peers_are_pinned() -> None:
    assert set(DEFAULT) <= set(CONTENDERS)
    for contender in CONTENDERS.values():
        if contender.requirements is not None:
            with (FOLDER / contender.requirements).open() as pins:
                assert all("==" in line for line in pins if line.strip())
