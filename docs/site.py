"""What the site has beyond docs/: pages that live elsewhere in the repository, and one page for each example.

mkdocs calls the functions whose names begin with `on_`. Links in all pages are written as they work in the repository;
here they are turned to where the page is on the site, and what the site does not have fails the strict build.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

ELSEWHERE = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CHANGELOG.md": "project/changelog.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "LICENSE": "project/licence.md",
    "SECURITY.md": "project/security.md",
    "examples/README.md": "examples/index.md",
}
"""A file of the repository and its page on the site."""

LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def examples() -> dict[str, str]:
    """The programs of examples/ and their pages."""
    return {
        f"examples/{path.name}": f"examples/{path.stem}.md"
        for path in sorted((ROOT / "examples").glob("*.py"))
    }


def pages() -> dict[str, str]:
    """All files of the repository, outside of docs/, that have a page."""
    return ELSEWHERE | examples()


def text_of(path: str) -> str:
    """The page of a file, as Markdown."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path == "LICENSE":
        return f"# Licence\n\n```text\n{text.strip()}\n```\n"
    if path.endswith(".py"):
        tree = ast.parse(text)
        return f"# {Path(path).name}\n\n{ast.get_docstring(tree)}\n\n```python\n{code_of(text, tree)}\n```\n"
    return text


def code_of(text: str, tree: ast.Module) -> str:
    """A program without its docstring, which stands above it."""
    first = tree.body[0]
    return "\n".join(text.splitlines()[first.end_lineno :]).strip()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the decisions and the examples one by one, under the pages that introduce them."""
    decisions = [
        f"decisions/{path.name}" for path in sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    ]
    under = {"decisions/README.md": decisions, "examples/index.md": list(examples().values())}

    def listed(entry: Any) -> Any:
        if isinstance(entry, str):
            return entry
        return {
            title: [*map(listed, what)]
            if isinstance(what, list)
            else [what, *under[what]]
            if what in under
            else what
            for title, what in entry.items()
        }

    config.nav = [listed(entry) for entry in config.nav or ()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for path, page in pages().items():
        files.append(File.generated(config, page, content=text_of(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn the links of a page."""
    homes = {site: repository for repository, site in pages().items()}
    here = page.file.src_uri
    home = posixpath.dirname(homes.get(here, f"docs/{here}"))

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(home, match[2]))
        return match[1] + posixpath.relpath(site_of(target), posixpath.dirname(here) or ".")

    parts = FENCED.split(markdown)  # prose, code, prose, ...
    parts[::2] = [LINK.sub(turned, prose) for prose in parts[::2]]
    return "".join(parts)


def site_of(target: str) -> str:
    """Where a file or folder of the repository is on the site; one that is not keeps its name, and fails the build."""
    if target == "README.md":
        return "index.md"
    for path in (target, f"{target}/README.md"):
        if path in pages():
            return pages()[path]
    if target.startswith("docs/"):
        target = target.removeprefix("docs/")
        return f"{target}/README.md" if (ROOT / "docs" / target).is_dir() else target
    return target
