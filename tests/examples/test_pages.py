"""What the pages say is so: their blocks run, their links lead somewhere, their tables name every option."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path

import msgspec
import pages
import pytest
from pages import PAGES, ROOT, RUN, Block, Session, Step, blocks_of, fits, run_page, steps_of

from perdure import Limits, NodeOptions, RetryPolicy
from perdure.store.limits import StoreLimits
from perdure.store.sqlite.database import Options

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
NOT_RUN = [block for block in BLOCKS if block.reason is not None]
LIVE = [
    page for page in PAGES if any(b.language in RUN and b.reason is None for b in blocks_of(page))
]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", LIVE, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_so(page: Path, tmp_path: Path) -> None:
    done = list(run_page(page, tmp_path))
    assert done


def test_the_readme_has_a_program() -> None:
    assert any(
        block.language == "python" and block.reason is None
        for block in blocks_of(ROOT / "README.md")
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_fence_is_understood(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    seen = sum(2 for _ in pages.FENCE.finditer(text))
    inner = sum(len(re.findall(r"^\s*```", block.text, re.MULTILINE)) for block in blocks_of(page))
    assert len(re.findall(r"^\s*```", text, re.MULTILINE)) == seen + inner, (
        "a fence is indented, or never closed"
    )
    wrong = [
        str(block) for block in blocks_of(page) if block.language in {"sh", "shell", "pycon", "py"}
    ]
    assert wrong == [], "say python, bash or console"


@pytest.mark.parametrize("page", LIVE, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_program_that_is_shown_as_a_file_is_used(page: Path) -> None:
    live = [block for block in blocks_of(page) if block.reason is None]
    for number, block in enumerate(live):
        if block.title is not None and block.title.endswith(".py"):
            later = "\n".join(b.text for b in live[number + 1 :])
            stem = Path(block.title).stem
            used = re.search(
                rf"\b{re.escape(block.title)}\b|\bimport {stem}\b|\bfrom {stem}\b", later
            )
            assert used or re.search(r"^\$? ?pytest\b", later, re.MULTILINE), (
                f"{block}: nothing uses {block.title}"
            )


@pytest.mark.parametrize("block", [b for b in NOT_RUN if b.language == "python"], ids=str)
def test_python_that_is_not_run_compiles_and_its_imports_work(block: Block) -> None:
    tree = compile(
        block.text, "fragment", "exec", flags=ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = [node for node in imports if "perdure" in ast.unparse(node)]
    exec(compile(ast.Module(ours, []), "fragment", "exec"), {})


@cache
def verbs() -> set[str]:
    command = [sys.executable, "-c", "from perdure.cli import main; main()", "--help"]
    help_text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^│ ([a-z-]+)", help_text, re.MULTILINE))


@pytest.mark.parametrize(
    "block", [b for b in NOT_RUN if b.language in {"bash", "console"}], ids=str
)
def test_commands_that_are_not_run_exist(block: Block) -> None:
    targets = set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for step in steps_of(block):
        program, *rest = re.sub(r"^(\w+=\S+ )+", "", step.command).split()
        if program == "make":
            assert rest[0] in targets, f"{block}: {step.command}"
        elif program == "perdure":
            assert rest[0] in verbs(), f"{block}: {step.command}"


def test_the_readme_promises_two_commands() -> None:
    first = next(block for block in blocks_of(ROOT / "README.md") if block.language == "bash")
    assert [step.command for step in steps_of(first)] == ["make demo", "make test"]


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("a 5 ms\nb", "a 12.5 s  \n\nb\n", True),
        ("a", "a\nb", False),
        ("a\n...", "a\nb\nc", True),
        ("...\nc", "a\nb\nc", True),
        ("a\n...\nc", "a\nc", True),
        ("a\n...\nd", "a\nb\nc", False),
        ("...", "", True),
        ("2 done", "3 done", False),
        ("2 done, …", "2 done, 3 to go", True),
        ("2 done, …", "3 done, 3 to go", False),
        ("bar ━━━━ x", "bar ━╸ x", True),
        ("at 2026-11-21T22:18:06.669Z", "at 2027-01-01T00:00:00Z", True),
        ("in shop.py:3", "in\n  /tmp/x/shop.py:3", True),
    ],
)
def test_what_is_compared(shown: str, printed: str, expected: bool) -> None:
    assert fits(shown, printed, Path("/tmp/x")) is expected


def test_nothing_in_the_background_outlives_the_tests(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.run(Step("sleep 600 &"), "here")
    session.shell.communicate(
        timeout=20
    )  # closes its input, as the end of this process does, however it ends
    with pytest.raises(ProcessLookupError):
        os.kill(session.jobs[0], 0)


def test_a_page_that_lies_is_caught(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        session.run(Step("echo hello", "hello"), "here")
        session.run(Step("sleep 60 &"), "here")
        with pytest.raises(AssertionError, match="--- shown\ngood-bye"):
            session.run(Step("echo hello", "good-bye"), "here")
        with pytest.raises(AssertionError, match="exit code 1"):
            session.run(Step("false"), "here")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    local = [
        link
        for link in re.findall(r"\]\(([^)#]+)", text)
        if not link.startswith(("https://", "mailto:"))
    ]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = re.findall(
        r"`((?:kernel|node|store|ports|codec|cli|testing|examples|docs|tests)/[\w/]+\.(?:py|md))`",
        text,
    )
    homes = (ROOT, ROOT / "src" / "perdure")
    assert [name for name in names if not any((home / name).exists() for home in homes)] == []


def listed(section: str) -> dict[str, str]:
    """The options in the table under a heading of docs/options.md, with their defaults as text."""
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    body = re.split(
        r"^#{2,3} ", text.split(f"# {section}\n", 1)[1], maxsplit=1, flags=re.MULTILINE
    )[0]
    return dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+?) \|", body, re.MULTILINE))


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ("A node: `NodeOptions`", NodeOptions),
        ("An instance: `Limits`", Limits),
        ("`RetryPolicy`", RetryPolicy),
    ],
)
def test_every_option_is_listed_with_its_default(
    section: str, kind: type[NodeOptions | Limits | RetryPolicy]
) -> None:
    defaults = {field.name: str(getattr(kind(), field.name)) for field in fields(kind)}
    if "limits" in defaults:
        defaults["limits"] = "see below"
    assert listed(section) == defaults


@pytest.mark.parametrize(
    ("section", "kind"),
    [("A store: `StoreLimits`", StoreLimits), ("A store's URL", Options)],
    ids=["limits", "url"],
)
def test_every_option_of_a_store_is_listed_with_its_default(
    section: str, kind: type[StoreLimits] | type[Options]
) -> None:
    defaults = {field.name: str(field.default).lower() for field in msgspec.structs.fields(kind)}
    if "shards" in defaults:
        defaults["shards"] = "1"  # None until the store is created
    assert listed(section) == defaults
