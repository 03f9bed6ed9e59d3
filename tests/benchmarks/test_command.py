"""The command line: what is refused, and what the page says about it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import Failed, command_line, measure, parse, suits
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.workloads import BY_NAME

from perdure.bench.machine import describe


def test_the_page_names_a_command_without_the_places_that_were_written_to() -> None:
    options = parse(
        [
            "--quick",
            "--only",
            "W1, W2",
            "--engines",
            "perdure,limits",
            "--json",
            "/somewhere/x.json",
        ]
    )
    assert options.json == Path("/somewhere/x.json")
    assert (
        command_line(options)
        == "python -m benchmarks --rounds 3 --engines perdure,limits --only W1,W2 --quick"
    )


@pytest.mark.parametrize("arguments", [["--only", "W99"], ["--engines", "nobody"]])
def test_an_unknown_name_is_refused_with_those_that_exist(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    said = capsys.readouterr().err
    assert f"unknown name {arguments[1]!r}" in said
    assert ("W1" if arguments[0] == "--only" else "duroxide") in said


def test_peers_stop_after_their_rounds_and_limits_measure_only_limits() -> None:
    perdure, dbos, limits = CONTENDERS["perdure"], CONTENDERS["dbos"], CONTENDERS["limits"]
    assert suits(dbos, BY_NAME["W6"], 1)
    assert not suits(dbos, BY_NAME["W6"], 2)
    assert suits(perdure, BY_NAME["W6"], 3)
    assert suits(limits, BY_NAME["LIMITS"], 3)
    assert not suits(limits, BY_NAME["W1"], 1)
    assert not suits(perdure, BY_NAME["LIMITS"], 1)


def test_an_engine_that_cannot_run_is_a_failure_that_names_no_folder() -> None:
    broken = Contender("broken", "broken", "benchmarks.engines.no_such_engine", "dbos")
    with pytest.raises(Failed, match="no_such_engine") as caught:
        measure(broken, sys.executable, BY_NAME["W1"], {})
    assert str(Path.cwd()) not in str(caught.value)


def test_the_machine_is_described_without_names_and_places(tmp_path: Path) -> None:
    said = describe(tmp_path)
    assert {"cores", "memory", "system", "file system", "Python"} <= set(said)
    assert not any(str(tmp_path) in value for value in said.values())
