"""`make docs`: the site builds with no warning, and a reader's browser fetches nothing from elsewhere."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import perdure
from perdure import testing, workflow

ROOT = Path(__file__).resolve().parents[2]
FETCHED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+"
)

pytestmark = pytest.mark.timeout(240)


def build(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=220,
    )


def test_the_site(tmp_path: Path) -> None:
    """One test, because the site is built once for it."""
    site = tmp_path / "site"
    done = build("--quiet", "--site-dir", site)
    assert done.returncode == 0, done.stderr
    has_every_page(site)
    fetches_nothing_from_elsewhere(site)
    has_every_public_name(site)


def has_every_page(site: Path) -> None:
    pages = {
        path.relative_to(ROOT / "docs").with_suffix(".html")
        for path in (ROOT / "docs").rglob("*.md")
    }
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    assert {
        page.with_name("index.html") if page.name == "README.html" else page for page in pages
    } <= built
    assert {Path("project/architecture.html"), Path("examples/hello.html")} <= built


def fetches_nothing_from_elsewhere(site: Path) -> None:
    found = {
        match
        for page in site.rglob("*.html")
        for match in FETCHED.findall(page.read_text(encoding="utf-8"))
    }
    assert found == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?https?:[^)\"']+", styles) == []


def has_every_public_name(site: Path) -> None:
    reference = "".join(
        path.read_text(encoding="utf-8") for path in sorted((site / "api").glob("*.html"))
    )
    assert "Wait for the end and return the result." in reference
    names = [(owner, name) for owner in (perdure, workflow, testing) for name in owner.__all__]
    missing = [
        f"{owner.__name__}.{name}"
        for owner, name in names
        if not inspect.ismodule(getattr(owner, name))  # a page of its own
        and name != "IfExists"  # a Literal, which the signatures show
        and not re.search(rf'id="perdure(?:\.\w+)*\.{name}"', reference)
    ]
    assert missing == [], "docs/api/ lacks them"


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(
        "# Start\n\n[there](nowhere.md) and [here](#no-such-place)\n"
    )
    (tmp_path / "docs" / "forgotten.md").write_text("# Not in the navigation\n")
    settings = re.search(
        r"^validation:\n(?:  .*\n)+",
        (ROOT / "mkdocs.yml").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert settings is not None
    (tmp_path / "mkdocs.yml").write_text(f"site_name: broken\nnav: [index.md]\n{settings[0]}")
    done = build(cwd=tmp_path)
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
    assert "#no-such-place" in done.stderr
    assert "forgotten.md" in done.stderr
