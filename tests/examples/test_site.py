"""`make docs`: the site builds with no warning, and a reader's browser fetches nothing from elsewhere."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import perdure
from perdure import testing, workflow

ROOT = Path(__file__).resolve().parents[2]
FETCHED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    assert {page.with_name("index.html") if page.name == "README.html" else page for page in pages} <= built
    assert {Path("project/architecture.html"), Path("examples/hello.html")} <= built


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    found = {match for page in site.rglob("*.html") for match in FETCHED.findall(page.read_text(encoding="utf-8"))}
    assert found == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?https?:[^)\"']+", styles) == []


@cache
def reference(site: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted((site / "api").glob("*.html")))


PUBLIC = [
    *((perdure, name) for name in perdure.__all__),
    *((workflow, name) for name in workflow.__all__),
    *((testing, name) for name in testing.__all__),
]


@pytest.mark.parametrize(("owner", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_every_public_name_is_in_the_reference(site: Path, owner: ModuleType, name: str) -> None:
    if inspect.ismodule(getattr(owner, name)) or name == "IfExists":
        return  # a page of its own; a Literal, which the signatures show
    assert re.search(rf'id="perdure(?:\.\w+)*\.{name}"', reference(site)), f"docs/api/ lacks {owner.__name__}.{name}"


def test_the_reference_has_the_docstrings(site: Path) -> None:
    page = (site / "api" / "client.html").read_text(encoding="utf-8")
    assert "Wait for the end and return the result." in page


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Start\n\n[there](nowhere.md) and [here](#no-such-place)\n")
    settings = re.search(r"^validation:\n(?:  .*\n)+", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert settings is not None
    (tmp_path / "mkdocs.yml").write_text(f"site_name: broken\n{settings[0]}")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
    assert "#no-such-place" in done.stderr
