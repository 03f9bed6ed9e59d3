"""The streams of a command: closed, full, narrow in their characters, or left by their reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from invocation import Cli

from perdure import NodeOptions

FULL = Path("/dev/full")
COMMANDS = ("ls", "ls --json", "show d", "history d", "stats", "--help", "explain")


def shell(line: str, **environment: str) -> tuple[int, str, str]:
    """Run a line of a shell in which `perdure` is the command: its exit code and its output."""
    script = f'perdure() {{ "{sys.executable}" -m perdure "$@"; }}\n{line}'
    ended = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture
def store(cli: Cli) -> None:
    assert cli("run", "shop.py:double", "[2]", "--id", "d", "-q").code == 0


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_seen_enough_is_no_error(command: str) -> None:
    code, _, errors = shell(f"perdure {command} | true; exit ${{PIPESTATUS[0]}}")
    assert (code, errors) == (0, "")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("target", [">&-", "> /dev/full"])
@pytest.mark.parametrize("command", ["ls", "ls --json", "show d", "--help"])
def test_an_answer_that_cannot_be_written(command: str, target: str) -> None:
    if not FULL.exists():
        pytest.skip("this machine has no /dev/full")
    code, _, errors = shell(f"perdure {command} {target}")
    assert code == 74
    assert errors.startswith("perdure: the answer cannot be written to stdout: ")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("target", ["2>&-", "2> /dev/full"])
def test_the_work_goes_on_without_notes(cli: Cli, target: str) -> None:
    if not FULL.exists():
        pytest.skip("this machine has no /dev/full")
    code, out, _ = shell(f"perdure run shop.py:double '[4]' --id d {target}")
    assert (code, out) == (0, "8\n")
    assert cli("show", "d", "--json").json["status"] == "completed"


def test_closed_streams_do_not_end_in_the_store(cli: Cli) -> None:
    assert shell("perdure run shop.py:double --id d <&- >&- 2>&-")[0] == 74
    assert cli("show", "d", "--json").json["status"] == "completed"


@pytest.mark.usefixtures("store")
def test_characters_that_the_terminal_does_not_have(cli: Cli) -> None:
    cli("run", "shop.py:approval", '["ö"]', "--id", "open", "-q", "--timeout", "0")
    code, out, errors = shell("perdure show open", PYTHONIOENCODING="ascii")
    assert (code, errors) == (0, "")
    assert "message" in out
    assert "?" in out


def test_errors_are_documents_with_json(cli: Cli) -> None:
    for command, code, kind in (
        ("ls --json", 5, "StoreUnavailable"),
        ("run shop.py:nothing --json", 2, "UsageError"),
        ("ls --json --bogus", 2, "NoSuchOption"),
        ("start shop.py:double ['x'] --json", 2, "DecodeError"),
    ):
        ended = cli(*command.split())
        assert ended.code == code
        error = json.loads(ended.stdout)["error"]
        assert (error["type"], error["exit_code"]) == (kind, code)
        assert error["message"].split()[0] in ended.stderr


@pytest.mark.parametrize(
    ("text", "is_good"),
    [("90", True), ("0.5", True), ("1h", True), ("1.5h", True), ("2w", True), ("1 h", False)]
    + [(text, False) for text in ("", "-1", "1y", "h", "soon", "1e3")],
)
def test_durations(cli: Cli, text: str, is_good: bool) -> None:
    ended = cli("start", "shop.py:double", "--id", "d", f"--delay={text}")
    if is_good:
        assert ended.code == 0
    else:
        assert ended.code == 2
        assert "is no duration; write seconds, or a number with a unit" in ended.stderr
        assert "Value error" not in ended.stderr


def test_a_delay_of_hours_is_so_long(cli: Cli) -> None:
    cli("start", "shop.py:double", "--id", "d", "--delay", "1.5h")
    assert "in 1h" in cli("show", "d").stdout


def test_an_object_for_a_bare_name_is_refused(cli: Cli) -> None:
    ended = cli("start", "checkout", '{"card": "4242"}')
    assert ended.code == 2
    assert "as FILE:checkout" in ended.stderr


def test_a_module_that_exits(cli: Cli, folder: Path) -> None:
    (folder / "exits.py").write_text("import sys\nsys.exit(3)\n")
    ended = cli("run", "exits.py:w")
    assert ended.code == 2
    assert "cannot import exits.py: it calls sys.exit(3)" in ended.stderr


def test_an_empty_file_stays_one(cli: Cli, folder: Path) -> None:
    (folder / "perdure.db").touch()
    ended = cli("send", "x", "go", "1")
    assert (ended.code, (folder / "perdure.db").stat().st_size) == (5, 0)
    assert "is an empty file and no store" in ended.stderr


def test_a_wait_without_a_node_says_so(cli: Cli) -> None:
    cli("start", "double", "--id", "d")
    ended = cli("wait", "d", "--timeout", "1.5")
    assert ended.code == 4
    assert "'d' waits for a node: none runs on this store" in ended.stderr


def test_unknown_variables_are_named(caplog: pytest.LogCaptureFixture) -> None:
    NodeOptions.load(environment={"PERDURE_THREADZ": "3", "PERDURE_STORE": "x", "OTHER": "y"})
    meant = "did you mean PERDURE_THREADS?"
    assert [record.getMessage() for record in caplog.records] == [
        f"the environment has PERDURE_THREADZ, which is no option of a node; {meant}"
    ]


def test_a_file_of_options_without_their_table(cli: Cli, folder: Path) -> None:
    (folder / "node.toml").write_text("threads = 3\n")
    ended = cli("serve", "shop.py:app", "--options", "node.toml")
    assert ended.code == 2
    assert "node.toml has no table [node]" in ended.stderr
