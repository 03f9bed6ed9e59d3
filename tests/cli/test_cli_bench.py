"""`perdure bench`: figures, results that are kept and compared, and a store that is not disturbed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from invocation import Cli

from perdure.bench.shapes import Starts
from perdure.cli.benchmarked import figure, table
from perdure.cli.outcome import Exit
from perdure.store import open_store

QUICK = ("--seconds", "0.05", "--outstanding", "2")
STORE = ("--store", "sqlite:///bench.db")


def test_it_prints_figures_and_leaves_nothing_behind(cli: Cli, folder: Path) -> None:
    ended = cli("bench", *QUICK, "--delay-ms", "1")
    assert ended.code == Exit.OK
    assert "bench: parallel for 0.05 s" in ended.stderr
    assert "outstanding 2, activities 5, delay ms 1.0; sqlite file" in ended.stdout
    for name in (
        "completed",
        "instances/s",
        "activities/s",
        "start to result",
        "memory",
        "processor",
        "this disk",
    ):
        assert f"\n{name} " in ended.stdout
    assert [path.name for path in folder.iterdir() if path.name != "__pycache__"] == ["shop.py"]


@pytest.mark.parametrize(
    ("args", "per_instance"),
    [
        (
            (
                "payload",
                "--results",
                "2x1, 1x3",
                "--children",
                "1",
                "--activities",
                "2",
                "--output-kb",
                "1",
            ),
            6,
        ),
        (("steps", "--activities", "4"), 4),
        (("starts",), 0),
    ],
)
def test_each_shape_has_options_of_its_own(
    cli: Cli, args: tuple[str, ...], per_instance: int
) -> None:
    ended = cli("bench", *args, *QUICK, "--store", "memory://", "--json")
    assert ended.code == Exit.OK, ended.stderr
    assert ended.stderr == ""
    report = ended.json
    assert report["shape"] == args[0]
    assert report["store"] == "memory"
    assert report["success_percent"] == 100
    assert report["completed"] > 0
    assert report["activities_per_s"] == pytest.approx(report["instances_per_s"] * per_instance)
    assert (report["steps_ms"] is not None) == (args[0] == "steps")


def test_a_wrong_result_is_reported_by_the_exit_code(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Starts().call(1)
    monkeypatch.setattr(
        Starts, "call", lambda self, number: right._replace(arguments=(number,), expected=-1)
    )
    ended = cli("bench", "starts", *QUICK, "--store", "memory://")
    assert ended.code == Exit.FAILED
    assert "wrong result" in ended.stdout


def test_results_are_kept_and_compared_with_the_first_of_their_kind(cli: Cli, folder: Path) -> None:
    kept = folder / "new" / "kept.jsonl"
    for shape in ("starts", "steps", "starts"):
        assert (
            cli("bench", shape, *QUICK, "--store", "memory://", "--keep", str(kept)).code == Exit.OK
        )
    reports = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [report["shape"] for report in reports] == ["starts", "steps", "starts"]
    assert reports[0]["version"]
    assert "cores" in reports[0]["scale"]["machine"]
    ended = cli("bench", "--compare", str(kept))
    assert ended.code == Exit.OK
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert [line[0] for line in lines] == ["shape", "starts", "starts", "steps"]
    ratio = reports[2]["instances_per_s"] / reports[0]["instances_per_s"]
    assert [line[6] for line in lines[1:]] == ["1.00", figure(ratio), "1.00"]
    assert cli("bench", "--compare", str(kept), "--json").json == reports


def test_a_file_without_results_says_how_to_get_one(cli: Cli, folder: Path) -> None:
    (folder / "kept.jsonl").write_text("\n")
    ended = cli("bench", "--compare", "kept.jsonl")
    assert (ended.code, ended.stdout) == (Exit.OK, "")
    assert "perdure bench --keep kept.jsonl" in ended.stderr


def test_a_result_that_cannot_be_kept_is_an_error(cli: Cli, folder: Path) -> None:
    ended = cli("bench", "starts", *QUICK, "--store", "memory://", "--keep", str(folder))
    assert ended.code == Exit.STORE
    assert f"cannot be kept in {folder}" in ended.stderr


def test_an_existing_store_is_left_with_what_was_in_it(cli: Cli) -> None:
    assert cli("run", "shop.py:double", "--id", "mine", *STORE, "-q").code == Exit.OK
    for _ in range(2):
        ended = cli("bench", "payload", "--results", "1x1", *QUICK, *STORE, "--json")
        assert ended.code == Exit.OK, ended.stderr
        assert ended.json["completed"] > 0
    assert [one["id"] for one in cli("ls", "--limit", "0", "--json", *STORE).json["instances"]] == [
        "mine"
    ]


def test_a_new_file_that_was_named_keeps_the_instances_of_the_run(cli: Cli) -> None:
    ended = cli("bench", "starts", *QUICK, *STORE, "--json")
    assert ended.code == Exit.OK
    found = cli("ls", "--type", "start", "--limit", "0", "--json", *STORE).json["instances"]
    assert len(found) == ended.json["completed"]
    assert all(one["id"].startswith("bench-") for one in found)


def test_instances_that_wait_for_their_own_code_are_not_taken_up(cli: Cli) -> None:
    assert cli("start", "shop.py:double", "--id", "mine", *STORE).code == Exit.OK
    ended = cli("bench", "starts", *QUICK, *STORE)
    assert ended.code == Exit.USAGE
    assert "'mine' in sqlite:///bench.db has work to do" in ended.stderr
    assert cli("run", "shop.py:double", "--id", "mine", *STORE, "-q").json == 2


async def test_a_store_that_another_process_owns_is_refused(cli: Cli) -> None:
    import asyncio

    from perdure import App

    async with open_store("sqlite:///bench.db") as store, App("other").node(store):
        ended = await asyncio.to_thread(cli, "bench", "starts", *QUICK, *STORE)
    assert ended.code == Exit.STORE
    assert "bench.db" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    ended = cli("bench", *QUICK)
    assert ended.code == Exit.STORE
    assert "Permission denied; name one with --store" in ended.stderr


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12_345.6, "12,300"),
        (412.4, "412"),
        (41.24, "41.2"),
        (40, "40"),
        (2.414, "2.41"),
        (0.05714, "0.0571"),
        (0, "0"),
    ],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


def test_a_result_with_failures_shows_the_first_of_each_kind() -> None:
    import asyncio

    from perdure.bench.stress import Stress
    from perdure.cli import screen

    stress = Stress(Starts(1), seconds=0.01)
    stress.tally.note_failure("poison", "first")
    stress.tally.note_failure("poison", "second")
    report = asyncio.run(stress.run())
    console = screen.answers()
    with console.capture() as captured:
        console.print(table(report))
    assert "poison" in captured.get()
    assert "2: first" in captured.get()
