"""A folder for a project, and the lint as a function that compares findings with the marks in the source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent

import pytest

from perdure.lint.report import Report, lint

HEAD = """\
from __future__ import annotations
from perdure import App, workflow
app = App("shop")
"""

Marked = Callable[..., None]
Write = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, as the current folder."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Write:
    """Make files from a dict of path and text."""

    def make(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")

    return make


def marks(folder: Path) -> Counter[tuple[str, int, str]]:
    """File, line and code of each `#! CODE CODE` in the project."""
    found: Counter[tuple[str, int, str]] = Counter()
    for path in folder.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if mark := re.search(r"#! (.*)", line):
                found.update(
                    (str(path.relative_to(folder)), number, code) for code in mark[1].split()
                )
    return found


def codes(report: Report) -> Counter[tuple[str, int, str]]:
    """File, line and code of each finding."""
    return Counter((finding.path, finding.line, finding.rule.code) for finding in report.findings)


@pytest.fixture
def marked(folder: Path, write: Write) -> Marked:
    """Lint files, and compare: each marked line has the codes that it names, and no other line has any."""

    def check(files: dict[str, str] | str, given: str = ".") -> None:
        write({"flows.py": files} if isinstance(files, str) else files)
        assert codes(lint([given])) == marks(folder)

    return check


@pytest.fixture
def in_workflow(marked: Marked) -> Callable[..., None]:
    """The same, for the body of a workflow, after some lines at the top of the module."""

    def check(body: str, top: str = "", arguments: str = "") -> None:
        text = f"{dedent(top)}\n@app.workflow\nasync def flow({arguments}) -> None:\n{indent(dedent(body), '    ')}\n"
        marked(HEAD + text)

    return check
