"""`perdure lint`: what it prints, how it ends, and what it says about rubbish."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command

from perdure.cli.program import app
from perdure.lint.catalogue import CLOCK, PRINT, RULES
from perdure.lint.report import lint

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = get_command(app)
Write = Callable[[dict[str, str]], None]


class Ended(NamedTuple):
    code: int
    out: str
    errors: str


Run = Callable[[Sequence[str]], Ended]

FLOWS = """
    import time, uuid
    from perdure import App
    app = App("x")
    @app.workflow
    async def flow() -> None:
        print(time.time())
    """


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, in this process."""
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def command(arguments: Sequence[str]) -> Ended:
        out, errors = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", errors)
            PROGRAM.main(["lint", *arguments])
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out.getvalue(), errors.getvalue())

    return command


def test_a_finding_is_a_line_for_editors_and_people(write: Write, run: Run) -> None:
    write({"flows.py": FLOWS})
    lines = (
        f"flows.py:6:5: PD401 print() in workflow 'flow'; {PRINT.remedy}\n"
        f"flows.py:6:11: PD101 time.time() in workflow 'flow'; {CLOCK.remedy}\n"
    )
    assert run(["flows.py"]) == (8, lines, "1 finding, 1 hint; 1 workflow in 1 file\n")


def test_columns_count_characters(write: Write) -> None:
    write({"flows.py": FLOWS.replace("print(time.time())", "'Å日本語', time.time()")})
    (finding,) = lint(["flows.py"]).findings
    assert finding.column == 13


def test_hints_do_not_count_unless_asked_for(write: Write, run: Run) -> None:
    write({"flows.py": FLOWS.replace("time.time()", "3")})
    assert run(["."]).code == 0
    assert run([".", "--strict"]).code == 8
    assert run([".", "--strict", "--ignore", "PD4"]) == (
        0,
        "",
        "no findings; 1 workflow in 1 file\n",
    )


def test_json_is_one_document(write: Write, run: Run) -> None:
    write({"flows.py": FLOWS})
    ended = run(["--json", "."])
    document = json.loads(ended.out)
    assert (ended.code, ended.errors) == (8, "")
    assert (document["files"], document["workflows"]) == (1, 1)
    assert document["findings"][1] == {
        "file": "flows.py",
        "line": 6,
        "column": 11,
        "code": "PD101",
        "kind": "finding",
        "name": "time.time()",
        "workflow": "flow",
        "helper": None,
        "message": "time.time() in workflow 'flow'",
        "remedy": "replay would see another time: use workflow.now()",
    }
    assert document["findings"][0]["kind"] == "hint"


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        (["--select", "PD101"], ["PD101"]),
        (["--select", "PD4,PD2"], ["PD401"]),
        (["--select", "PD4", "--select", "pd1"], ["PD401", "PD101"]),
        (["--ignore", "PD401, PD2"], ["PD101"]),
        (["--select", "PD1", "--ignore", "PD101"], []),
    ],
)
def test_codes_can_be_chosen(options: list[str], codes: list[str], write: Write, run: Run) -> None:
    write({"flows.py": FLOWS})
    assert re.findall(r"PD\d+", run([".", *options]).out) == codes


def test_comments_ignore_findings_by_code(write: Write) -> None:
    write(
        {
            "flows.py": """
                import time
                from perdure import App
                app = App("x")
                @app.workflow
                async def flow() -> None:
                    time.time()  # perdure: ignore[PD101]
                    time.sleep(time.time())  # why not  # perdure: ignore[PD205, PD101]
                    time.localtime(  #perdure:ignore[PD101]
                    )
                    "# perdure: ignore[PD101] in a string", time.time()
                """
        }
    )
    assert [(f.line, f.rule.code) for f in lint(["."]).findings] == [(10, "PD101")]


def test_comments_that_ignore_nothing_are_findings(write: Write) -> None:
    write(
        {
            "flows.py": """
                import time
                from perdure import App
                app = App("x")
                @app.workflow
                async def flow() -> None:
                    time.time()  # perdure: ignore[PD101, PD205]
                    time.now()  # perdure: ignore[PD101]
                    time.time()  # perdure: ignore
                    time.time()  # perdure: ignore[PD1, PD101]
                    time.time()  # perdure: ignore[PD101
                """
        }
    )
    findings = lint(["."]).findings
    assert [
        (f.line, f.column, f.rule.code, f.message)
        for f in findings
        if f.rule.code.startswith("PD9")
    ] == [
        (6, 18, "PD901", "an unused ignore[PD205]"),
        (7, 17, "PD901", "an unused ignore[PD101]"),
        (8, 18, "PD902", "an ignore comment that names no code"),
        (9, 18, "PD902", "an ignore comment with 'PD1', which is no code"),
        (10, 18, "PD902", "an ignore comment that names no code"),
    ]
    assert [f.line for f in lint(["."], select=["PD205"]).findings] == []
    assert [f.line for f in lint(["."], ignore=["PD901", "PD902", "PD101"]).findings] == []


def test_a_comment_in_a_helper_is_used_by_a_workflow_elsewhere(write: Write) -> None:
    write(
        {
            "flows.py": """
                from perdure import App
                from prices import price
                app = App("x")
                @app.workflow
                async def flow() -> None: price()
                """,
            "prices.py": "import time\ndef price(): return time.time()  # perdure: ignore[PD101]\n",
        }
    )
    assert lint(["prices.py"]).findings == []
    assert lint(["flows.py"]).findings == []


BAD: list[tuple[str, dict[str, str | bytes], list[str]]] = [
    ("nowhere.py", {}, ["there is no file nowhere.py", "check the path"]),
    ("some/where", {}, ["there is no file some/where"]),
    ("no-module", {}, ["there is no file no-module"]),
    ("nowhere", {}, ["there is no file, folder or module 'nowhere'"]),
    (
        "shop.nowhere",
        {"shop/__init__.py": ""},
        ["there is no file, folder or module 'shop.nowhere'"],
    ),
    ("flows.nowhere", {"flows.py": ""}, ["'flows.nowhere' is no Python file or package"]),
    ("msgspec._core", {}, ["'msgspec._core' is no Python file or package"]),
    ("empty", {"empty/README.txt": "x"}, ["the folder empty has no Python files"]),
    ("flows.py:nothing", {"flows.py": "x = 1"}, ["flows.py defines no 'nothing'", "holds the App"]),
    ("flows.py:", {"flows.py": "x = 1"}, ["'flows.py:' names no code", "MODULE:APP"]),
    (":app", {}, ["':app' names no code"]),
    ("flows:app", {"flows/a.py": "x = 1"}, ["a folder has no app", "flows/a.py:app"]),
    (". --select PD999", {"a.py": ""}, ["there is no code 'PD999'", "PD101"]),
    (". --ignore X,PD1", {"a.py": ""}, ["there is no code 'X'"]),
    (". --select ,", {"a.py": ""}, ["there is no code ''"]),
    ("", {}, ["Missing argument", "perdure lint --help"]),
]


@pytest.mark.parametrize(
    ("arguments", "files", "expected"), BAD, ids=[case[0] or "nothing" for case in BAD]
)
def test_bad_arguments_are_named(
    arguments: str, files: dict[str, str], expected: list[str], write: Write, run: Run
) -> None:
    write(files)
    ended = run(arguments.split())
    assert (ended.code, ended.out) == (2, "")
    assert ended.errors.count("\n") == 1
    assert all(part in ended.errors for part in expected), ended.errors


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "syntax": (b"x = 1\ndef f(:\n", "2:7: PD900 the file is not Python: "),
    "not UTF-8": (b"x = 1\nname = '\xff'\n", "2:1: PD900 the file is not UTF-8 text: "),
    "unknown encoding": (b"# coding: klingon\n", "1:1: PD900 the file is not Python: "),
    "NUL": (b"x = '\0'\n", "1:1: PD900 the file is not Python: "),
    "too deep": (b"(" * 5_000 + b")" * 5_000, "PD900 the file is not Python: "),
    "a notebook": (b'{"cells": [', "PD900 the file is not Python: "),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_cannot_be_read_is_an_error_and_the_others_are_checked(
    case: str, folder: Path, write: Write, run: Run
) -> None:
    data, expected = UNREADABLE[case]
    write({"flows.py": FLOWS})
    (folder / "bad.py").write_bytes(data)
    ended = run(["bad.py", "flows.py", "--select", "PD101"])
    first, second = ended.out.splitlines()
    assert first.startswith("bad.py:")
    assert expected in first
    assert second.startswith("flows.py:6:11: PD101")
    assert ended.code == 2
    assert "1 file that could not be checked" in ended.errors


@pytest.mark.parametrize("text", ["+".join("x" * 4_000), "x" + ".a()" * 900], ids=["sum", "chain"])
def test_what_is_nested_too_deeply_is_named_and_the_rest_is_checked(
    text: str, write: Write, run: Run
) -> None:
    write({"deep.py": FLOWS.replace("print(time.time())", f"return {text}"), "flows.py": FLOWS})
    ended = run([".", "--select", "PD101"])
    first, second = ended.out.splitlines()
    assert re.match(r"deep.py:\d+:1: PD900 the file .*(too deeply|is not Python)", first)
    assert second.startswith("flows.py:6:11: PD101")
    assert ended.code == 2


def test_long_chains_take_no_long_time(write: Write) -> None:
    chain = "{'a'}" + ".union({'b'})" * 60
    write({"flows.py": FLOWS.replace("print(time.time())", f"list({chain})")})
    started = time.process_time()
    assert [finding.rule.code for finding in lint(["."]).findings] == ["PD106"]
    assert time.process_time() - started < 10


def test_other_encodings_are_read(folder: Path) -> None:
    (folder / "latin.py").write_bytes(
        b"# coding: latin-1\nimport time\nfrom perdure import App\napp = App('x')\n"
        b"@app.workflow\nasync def flow():\n    return '\xe9', time.time()\n"
    )
    (folder / "bom.py").write_bytes(b"\xef\xbb\xbfimport time\r\nx = 1\r\n")
    (finding,) = lint(["latin.py", "bom.py"]).findings
    assert (finding.line, finding.column) == (7, 17)


def test_a_file_that_may_not_be_opened_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (folder / "secret.py").touch()
    monkeypatch.setattr(Path, "read_bytes", refuse)
    (finding,) = lint(["secret.py"]).findings
    assert finding.message == "the file cannot be opened: Permission denied"


def test_folders_of_others_are_left_out(write: Write) -> None:
    for name in (".hidden", "__pycache__", "node_modules", "env/lib/site-packages"):
        write({f"{name}/flows.py": FLOWS})
    write({"venv/pyvenv.cfg": "", "venv/flows.py": FLOWS, "flows.py": FLOWS})
    assert {finding.path for finding in lint(["."]).findings} == {"flows.py"}
    assert len(lint([".hidden/flows.py"]).findings) == 2


def test_nothing_of_the_code_is_run(write: Write, run: Run, folder: Path) -> None:
    write(
        {
            "explosive/__init__.py": "raise SystemExit('imported')",
            "explosive/flows.py": "import explosive\nraise SystemExit('imported')\n",
        }
    )
    assert run(["explosive", "explosive.flows", "explosive/flows.py"]) == (
        0,
        "",
        "no findings; 0 workflows in 2 files\n",
    )
    assert "explosive" not in sys.modules
    assert not list(folder.rglob("*.pyc"))


def test_a_thousand_files_take_seconds(folder: Path) -> None:
    for number in range(1_000):
        text = f"import time\nfrom perdure import App\napp = App('x')\n@app.workflow\nasync def flow_{number}():\n"
        path = folder / f"p{number // 100}" / f"m{number}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            text + "    for n in [1, 2]:\n        time.gmtime(n)\n" * 10 + "    time.time()\n"
        )
    started = time.process_time()
    report = lint(["."])
    assert (report.files, report.workflows, len(report.wrong)) == (1_000, 1_000, 1_000)
    assert time.process_time() - started < 30


def test_examples_are_clean_but_for_those_that_show_what_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    report = lint(["examples"])
    assert report.workflows > 40
    assert {finding.path for finding in report.findings} == {"examples/guard.py"}


def test_the_package_and_its_tests_give_no_false_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    report = lint(["src", "tests", "benchmarks"])
    assert report.workflows > 300
    meant = {
        "tests/examples/test_errors_page.py",
        "tests/guard/test_ignored.py",
        "tests/instances/test_node_life.py",
        "tests/typing/bad_workflows.py",
    }
    assert [str(finding) for finding in report.wrong if finding.path not in meant] == []


def test_the_hook_of_pre_commit_runs_the_command(write: Write, folder: Path) -> None:
    hook = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^[- ] (\w+): (.+)$", hook, re.MULTILINE))
    assert (fields["id"], fields["entry"], fields["types"]) == (
        "perdure-lint",
        "perdure lint",
        "[python]",
    )
    write({"flows.py": FLOWS})
    command = [
        sys.executable,
        "-c",
        "from perdure.cli import main; main()",
        *fields["entry"].split()[1:],
        "flows.py",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n")) == (8, 2)


def test_the_page_explains_every_code() -> None:
    page = (ROOT / "docs" / "lint.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (PD\d+): ", page, re.MULTILINE) == list(RULES)
    for code, rule in RULES.items():
        assert f"### {code}: {rule.title}\n" in page
