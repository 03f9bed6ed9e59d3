"""What the pages say is so: their programs run, their links lead somewhere, their tables name every option."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest

from perdure import Limits, NodeOptions, RetryPolicy
from perdure.store.database import Options
from perdure.store.limits import StoreLimits

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), 1)
]


def is_program(block: str) -> bool:
    return "\nasyncio.run(" in block


def test_the_readme_has_a_program() -> None:
    assert is_program((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("block", [param for param in BLOCKS if is_program(str(param.values[0]))])
def test_a_program_on_a_page_runs_as_written(block: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(block, encoding="utf-8")
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("block", [param for param in BLOCKS if not is_program(str(param.values[0]))])
def test_a_fragment_on_a_page_is_python_and_its_imports_work(block: str) -> None:
    tree = compile(block, "fragment", "exec", flags=ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "fragment", "exec"), {})


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_commands_on_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    help_text = subprocess.run(
        [sys.executable, "-c", "from perdure.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    verbs = set(re.findall(r"^│ ([a-z-]+)", help_text, re.MULTILINE))
    for page in PAGES:
        for line in commands(page):
            program, verb, *_ = line.split()
            assert program in {"make", "perdure"}, f"{page.name}: {line}"
            assert verb in (targets if program == "make" else verbs), f"{page.name}: {line}"
    assert commands(ROOT / "README.md") == ["make demo", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    local = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith(("https://", "mailto:"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"`((?:kernel|node|store|ports|codec|cli|testing|examples|docs|tests)/[\w/]+\.(?:py|md))`", text)
    homes = (ROOT, ROOT / "src" / "perdure")
    assert [name for name in names if not any((home / name).exists() for home in homes)] == []


def listed(section: str) -> dict[str, str]:
    """The options in the table under a heading of docs/options.md, with their defaults as text."""
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    body = re.split(r"^#{2,3} ", text.split(f"# {section}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+?) \|", body, re.MULTILINE))


@pytest.mark.parametrize(
    ("section", "kind"),
    [("A node: `NodeOptions`", NodeOptions), ("An instance: `Limits`", Limits), ("`RetryPolicy`", RetryPolicy)],
)
def test_every_option_is_listed_with_its_default(section: str, kind: type[NodeOptions | Limits | RetryPolicy]) -> None:
    defaults = {field.name: str(getattr(kind(), field.name)) for field in fields(kind)}
    if "limits" in defaults:
        defaults["limits"] = "see below"
    assert listed(section) == defaults


@pytest.mark.parametrize(
    ("section", "kind"), [("A store: `StoreLimits`", StoreLimits), ("A store's URL", Options)], ids=["limits", "url"]
)
def test_every_option_of_a_store_is_listed_with_its_default(
    section: str, kind: type[StoreLimits] | type[Options]
) -> None:
    defaults = {field.name: str(field.default).lower() for field in msgspec.structs.fields(kind)}
    if "shards" in defaults:
        defaults["shards"] = "1"  # None until the store is created
    assert listed(section) == defaults
