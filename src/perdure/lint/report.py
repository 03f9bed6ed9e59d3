"""The way from paths to findings, without the findings that options or comments leave out."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from perdure.errors import UsageError
from perdure.lint.body import Found, Walk
from perdure.lint.catalogue import RULES, UNREADABLE, UNUSED_IGNORE, WRONG_IGNORE, Rule
from perdure.lint.project import Project, is_of_interest, named_files, siblings
from perdure.lint.roots import Root, origin, roots
from perdure.lint.scope import module_scope
from perdure.lint.source import Ignore, Source, Unreadable, package_of


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. Lines and columns count from 1, columns in characters."""

    path: str
    line: int
    column: int
    rule: Rule
    name: str
    workflow: str | None = None
    helper: str | None = None

    @property
    def message(self) -> str:
        """The forbidden name, and the workflow that uses it."""
        if self.workflow is None:
            return self.name
        place = f"workflow {self.workflow!r}"
        if self.helper is None:
            return f"{self.name} in {place}"
        return f"{self.name} in {self.helper}(), used by {place}"

    def __str__(self) -> str:
        """The form `path:line:column:`, which editors turn into a link."""
        place = f"{self.path}:{self.line}:{self.column}"
        return f"{place}: {self.rule.code} {self.message}; {self.rule.remedy}"


@dataclass(slots=True)
class Report:
    """The findings, and the numbers of files and workflows that were checked."""

    files: int = 0
    workflows: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def unreadable(self) -> list[Finding]:
        """Files that could not be checked."""
        return [finding for finding in self.findings if finding.rule is UNREADABLE]

    @property
    def wrong(self) -> list[Finding]:
        """Findings that count."""
        others = {UNREADABLE, *(rule for rule in RULES.values() if rule.hint)}
        return [finding for finding in self.findings if finding.rule not in others]

    @property
    def hints(self) -> list[Finding]:
        """Findings that are only shown."""
        return [finding for finding in self.findings if finding.rule.hint]


def lint(given: Iterable[str], *, select: Sequence[str] = (), ignore: Sequence[str] = ()) -> Report:
    """Check files, folders, modules (`shop.flows`) or the workflows of one app (`shop.flows:app`).

    `select` and `ignore` are codes or beginnings of codes. Nothing is imported and nothing is run.

    Raises:
        UsageError: there is no such path, module, app or code.
    """
    return _Lint(_chosen(select, ignore)).run(given)


def _chosen(select: Sequence[str], ignore: Sequence[str]) -> frozenset[str]:
    """The codes to report. A file that cannot be read is always reported."""
    wanted = set(RULES)
    if select:
        wanted = _codes(select)
    return frozenset((wanted - _codes(ignore)) | {UNREADABLE.code})


def _codes(given: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for code in given:
        fits = {known for known in RULES if known.startswith(code.upper())}
        if not fits or not code.strip():
            msg = f"there is no code {code!r}; the codes are {', '.join(RULES)}"
            raise UsageError(msg)
        found |= fits
    return found


TOO_DEEP = "has expressions that are nested too deeply: break them up"

Place: TypeAlias = tuple[Source, str]
"""The definition of a variable: its file, and its name."""


class _Lint:
    def __init__(self, chosen: frozenset[str]) -> None:
        self.project = Project()
        self.chosen = chosen
        self.seen: set[Path] = set()  # files whose workflows have been walked
        self.found: dict[tuple[Path, int, int, str, str], tuple[Source, Found]] = {}
        self.workflows = 0

    def run(self, given: Iterable[str]) -> Report:
        named: set[Path] = set()
        for text in given:
            where, name = _split(text)
            paths = named_files(where)
            if name:
                self.look_at(self.around(paths), self.app(where, paths, name))
                continue
            named |= set(paths)
            # A file that was named itself is read in any case, so that its errors are reported.
            if Path(where).is_dir():
                paths = list(filter(is_of_interest, paths))
            self.look_at(paths)
        files = len(named | self.seen)
        self.look_around(named)
        # Comments come last: the findings before have marked those that ignore something.
        findings = [*self.findings(), *self.broken(), *self.comments(named & self.seen)]
        findings.sort(key=lambda f: (f.path, f.line, f.column, f.rule.code))
        return Report(files, self.workflows, findings)

    def look_at(self, paths: Iterable[Path], app: frozenset[Place] | None = None) -> None:
        """Walk the workflows of files, or those of an app in them."""
        for path in paths:
            # Another app of the same file has other workflows, so the file is looked at again.
            if app is None and path in self.seen:
                continue
            source = self.project.source(path)
            if source is None:
                continue
            self.seen.add(path)
            for root in self.roots(source):
                if app is None or root.app in app:
                    self.workflows += 1
                    self.walk(root)

    def roots(self, source: Source) -> list[Root]:
        """The workflows of a file."""
        try:
            return roots(source, self.project)
        except RecursionError:
            self.project.note_unreadable(source.path, Unreadable(1, 1, TOO_DEEP))
            return []

    def walk(self, root: Root, only: set[Path] | None = None) -> None:
        if not root.registration.is_guarded:
            return
        try:
            walk = Walk(root)
        except RecursionError:
            error = Unreadable(root.function.node.lineno, 1, TOO_DEEP)
            self.project.note_unreadable(root.source.path, error)
            return
        for found in walk.found:
            path = found.source.path
            if only is not None and path not in only:
                continue
            # Several workflows may use one helper, whose findings are reported once.
            if found.rule.code in self.chosen:
                key = (path, found.node.lineno, found.node.col_offset, found.rule.code, found.name)
                self.found.setdefault(key, (found.source, found))

    def look_around(self, named: set[Path]) -> None:
        """Walk the workflows of other files in the same packages.

        They may call helpers in a named file, and findings in these helpers count.
        """
        known = self.project.unreadable_so_far()
        for path in self.around(named):
            if path in self.seen or path in named:
                continue
            source = self.project.source(path)
            if source is not None:
                for root in self.roots(source):
                    self.walk(root, named)
        # Errors in files that were not named are not reported.
        self.project.forget_unreadable_but(known)

    def around(self, paths: Iterable[Path]) -> list[Path]:
        """The files of interest in the same packages or folders, sorted."""
        # One file per package is enough, because the files of a package have the same siblings.
        packages = {package_of(path): path for path in paths}
        near: set[Path] = set()
        for path in packages.values():
            near.update(siblings(path))
        return sorted(filter(is_of_interest, near))

    # ------------------------------------------------------------ one app

    def app(self, where: str, paths: list[Path], name: str) -> frozenset[Place]:
        """The places of the app of `shop.py:app`, and of the apps that it includes."""
        # The module itself, or the `__init__.py` of a package, which is the highest of its files.
        path = min(paths, key=lambda path: len(path.parts))
        if path.name != "__init__.py" and (len(paths) > 1 or Path(where).is_dir()):
            msg = (
                f"{where}:{name}: a folder has no app; "
                f"name the module that has it, such as {shown(path)}:{name}"
            )
            raise UsageError(msg)
        source = self.project.source(path)
        places: set[Place] = set()
        if source is not None:
            self._include(ast.Name(name, ast.Load()), source, places)
            if not places:
                msg = (
                    f"{where}:{name}: {shown(path)} defines no {name!r}; "
                    "name the variable that holds the App"
                )
                raise UsageError(msg)
        return frozenset(places)

    def _include(self, node: ast.expr, source: Source, places: set[Place]) -> None:
        scope = module_scope(self.project, source)
        place = origin(node, scope)
        if place is None or place in places:  # known already: apps may include each other
            return
        places.add(place)
        for where in {source, place[0]}:
            inner = module_scope(self.project, where)
            for statement in ast.walk(where.tree):
                match statement:
                    case ast.Call(
                        func=ast.Attribute(value=holder, attr="include"), args=[included]
                    ):
                        if origin(holder, inner) == place:
                            self._include(included, where, places)
                    case _:
                        continue

    # ------------------------------------------------------------ findings

    def findings(self) -> Iterator[Finding]:
        for source, found in self.found.values():
            if not self.is_ignored(source, found):
                line = found.node.lineno
                yield Finding(
                    shown(source.path),
                    line,
                    source.column(line, found.node.col_offset),
                    found.rule,
                    found.name,
                    found.workflow,
                    found.helper,
                )

    def is_ignored(self, source: Source, found: Found) -> bool:
        ignored = False
        for comment in source.ignores:
            if comment.covers(found.node.lineno, found.rule.code):
                ignored = True
        return ignored

    def broken(self) -> Iterator[Finding]:
        """Files that are no Python, among the named files and the files that a workflow imports."""
        for path, error in self.project.unreadable.items():
            yield Finding(shown(path), error.line, error.column, UNREADABLE, f"the file {error}")

    def comments(self, paths: set[Path]) -> Iterator[Finding]:
        """Comments that ignore nothing."""
        for path in paths:
            source = self.project.source(path)
            if source is not None:
                for comment in source.ignores:
                    yield from self.judged(source, comment)

    def judged(self, source: Source, comment: Ignore) -> Iterator[Finding]:
        place = (shown(source.path), comment.line, comment.column)
        if WRONG_IGNORE.code in self.chosen:
            if not comment.codes:
                yield Finding(*place, WRONG_IGNORE, "an ignore comment that names no code")
            for code in comment.unknown:
                yield Finding(
                    *place, WRONG_IGNORE, f"an ignore comment with {code!r}, which is no code"
                )
        # A code that was left out by an option found nothing to ignore, and is not unused thereby.
        looked_for = [code for code in comment.codes if code in self.chosen]
        unused = [code for code in looked_for if code not in comment.used]
        if unused and UNUSED_IGNORE.code in self.chosen:
            yield Finding(*place, UNUSED_IGNORE, f"an unused ignore[{', '.join(unused)}]")


def _split(text: str) -> tuple[str, str]:
    """`shop.py:app` as a path or module and the name of an app, which may be empty."""
    where, colon, name = text.rpartition(":")
    # A drive has a colon, too: C:\shop.py.
    if not colon or Path(text).exists() or "/" in name or "\\" in name:
        return text, ""
    if not where or not name.isidentifier():
        msg = (
            f"{text!r} names no code; write a PATH, a MODULE or MODULE:APP, for example shop.py:app"
        )
        raise UsageError(msg)
    return where, name


def shown(path: Path) -> str:
    """A path as messages show it, relative to the current folder if it is inside."""
    here = Path.cwd()
    if path.is_relative_to(here):
        return str(path.relative_to(here))
    return str(path)
