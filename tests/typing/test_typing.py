"""What users write is checked by their type checker: correct code passes both, each wrong line is caught by both."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
MARK = re.compile(r"#\s*E\b")
PAIRS = {"testing": 8, "workflows": 30}
"""Pairs of files, and how many wrong lines there are at least."""
CHECKERS = ["pyright", "mypy"]
LIMIT_S = 240

Errors = dict[str, dict[int, list[str]]]
"""Messages by file name and line."""


@cache
def pyright() -> Errors:
    files = sorted(FOLDER.glob("good_*.py")) + sorted(FOLDER.glob("bad_*.py"))
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        *map(str, files),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] >= len(files), done.stdout + done.stderr
    errors: Errors = {}
    for finding in report["generalDiagnostics"]:
        if finding["severity"] == "error":
            lines = errors.setdefault(Path(finding["file"]).name, {})
            lines.setdefault(finding["range"]["start"]["line"] + 1, []).append(finding["message"])
    return errors


@cache
def mypy() -> Errors:
    files = sorted(FOLDER.glob("good_*.py")) + sorted(FOLDER.glob("bad_*.py"))
    command = [sys.executable, "-m", "mypy", "--strict", "--output", "json", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    errors: Errors = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            finding = json.loads(line)
            if finding["severity"] == "error":
                lines = errors.setdefault(Path(finding["file"]).name, {})
                lines.setdefault(finding["line"], []).append(finding["message"])
    return errors


def errors_of(checker: str) -> Errors:
    return pyright() if checker == "pyright" else mypy()


def marked(file: Path) -> set[int]:
    return {
        number for number, line in enumerate(file.read_text().splitlines(), 1) if MARK.search(line)
    }


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("pair", PAIRS)
def test_correct_code_has_no_error(checker: str, pair: str) -> None:
    assert errors_of(checker).get(f"good_{pair}.py", {}) == {}


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("pair", PAIRS)
def test_each_wrong_line_is_caught(checker: str, pair: str) -> None:
    file = FOLDER / f"bad_{pair}.py"
    source = file.read_text().splitlines()
    wanted, found = marked(file), errors_of(checker).get(file.name, {})
    assert len(wanted) > PAIRS[pair]
    missed = {number: source[number - 1].strip() for number in sorted(wanted - set(found))}
    assert missed == {}, f"{checker} does not see these"
    more = {number: found[number] for number in sorted(set(found) - wanted)}
    assert more == {}, f"{checker} finds errors where none is marked"


@pytest.mark.parametrize("pair", PAIRS)
def test_correct_code_can_be_imported(pair: str) -> None:
    assert importlib.import_module(f"good_{pair}").app.activities()


def test_the_files_come_in_pairs() -> None:
    for kind in ("good", "bad"):
        assert [
            f.stem.removeprefix(f"{kind}_") for f in sorted(FOLDER.glob(f"{kind}_*.py"))
        ] == list(PAIRS)
