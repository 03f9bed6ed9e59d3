"""The whole of it: from paths to findings, with what was asked to be left out left out."""

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
        """What is there, and in which workflow."""
        if self.workflow is None:
            return self.name
        place = f"workflow {self.workflow!r}"
        return (
            f"{self.name} in {place}"
            if self.helper is None
            else f"{self.name} in {self.helper}(), used by {place}"
        )

    def __str__(self) -> str:
        """As editors and people read it."""
        place = f"{self.path}:{self.line}:{self.column}"
        return f"{place}: {self.rule.code} {self.message}; {self.rule.remedy}"


@dataclass(slots=True)
class Report:
    """What the lint has seen and found."""

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
        return [
            finding
            for finding in self.findings
            if not finding.rule.hint and finding.rule is not UNREADABLE
        ]

    @property
    def hints(self) -> list[Finding]:
        """Findings that are only shown."""
        return [finding for finding in self.findings if finding.rule.hint]


def lint(given: Iterable[str], *, select: Sequence[str] = (), ignore: Sequence[str] = ()) -> Report:
    """Look at files, folders, modules (`shop.flows`) or the workflows of one app (`shop.flows:app`).

    `select` and `ignore` are codes, or what codes begin with. Nothing is imported and nothing is run.

    Raises:
        UsageError: there is no such path, module, app or code.
    """
    return _Lint(_chosen(select, ignore)).run(given)


def _chosen(select: Sequence[str], ignore: Sequence[str]) -> frozenset[str]:
    """The codes that count; a file that cannot be read always does."""
    wanted = _codes(select) if select else set(RULES)
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
"""Where a variable is defined: the file, and its name."""


class _Lint:
    def __init__(self, chosen: frozenset[str]) -> None:
        self.project = Project()
        self.chosen = chosen
        self.seen: set[Path] = set()  # files whose workflows have been walked
        self.found: dict[tuple[Path, int, int, str, str], tuple[Source, Found]] = {}
        self.report = Report()

    def run(self, given: Iterable[str]) -> Report:
        named: set[Path] = set()
        for text in given:
            where, name = _split(text)
            paths = named_files(where)
            if name:
                self.look_at(self.around(paths), self.app(where, paths, name))
            else:
                named |= set(paths)
                is_folder = Path(where).is_dir()
                self.look_at([path for path in paths if not is_folder or is_of_interest(path)])
        self.report.files = len(named | self.seen)
        self.look_around(named)
        findings = [*self.findings(), *self.broken(), *self.comments(named & self.seen)]
        self.report.findings = sorted(
            findings, key=lambda f: (f.path, f.line, f.column, f.rule.code)
        )
        return self.report

    def look_at(self, paths: Iterable[Path], app: frozenset[Place] | None = None) -> None:
        """Walk the workflows of files, or those of an app in them."""
        for path in paths:
            source = self.project.source(path) if app is not None or path not in self.seen else None
            if source is None:
                continue
            self.seen.add(path)
            for root in self.roots(source):
                if app is None or root.app in app:
                    self.report.workflows += 1
                    self.walk(root)

    def roots(self, source: Source) -> list[Root]:
        """The workflows of a file."""
        try:
            return roots(source, self.project)
        except RecursionError:
            self.project.unreadable[source.path] = Unreadable(1, 1, TOO_DEEP)
            return []

    def walk(self, root: Root, only: set[Path] | None = None) -> None:
        if not root.registration.is_guarded:
            return
        try:
            walk = Walk(root)
        except RecursionError:
            self.project.unreadable[root.source.path] = Unreadable(
                root.function.node.lineno, 1, TOO_DEEP
            )
            return
        for found in walk.found:
            path = found.source.path
            if found.rule.code in self.chosen and (only is None or path in only):
                key = (path, found.node.lineno, found.node.col_offset, found.rule.code, found.name)
                self.found.setdefault(key, (found.source, found))

    def look_around(self, named: set[Path]) -> None:
        """Workflows elsewhere in the same package may call into a file that was named: a helper is code of theirs."""
        known = dict(self.project.unreadable)
        for path in self.around(named):
            source = self.project.source(path) if path not in self.seen | named else None
            for root in self.roots(source) if source is not None else ():
                self.walk(root, named)
        self.project.unreadable = known  # nobody has asked about those files

    def around(self, paths: Iterable[Path]) -> list[Path]:
        """The files of interest whose code may belong to that of these."""
        near = {
            path: siblings(path) for path in {package_of(path): path for path in paths}.values()
        }
        return sorted(
            {sibling for some in near.values() for sibling in some if is_of_interest(sibling)}
        )

    # ------------------------------------------------------------ one app

    def app(self, where: str, paths: list[Path], name: str) -> frozenset[Place]:
        """Where the app of `shop.py:app` is defined, and those that it includes."""
        path = min(paths, key=lambda path: len(path.parts))
        if path.name != "__init__.py" and (len(paths) > 1 or Path(where).is_dir()):
            msg = f"{where}:{name}: a folder has no app; name the module that has it, such as {shown(path)}:{name}"
            raise UsageError(msg)
        source = self.project.source(path)
        places: set[Place] = set()
        if source is not None:
            self._include(ast.Name(name, ast.Load()), source, places)
            if not places:
                msg = f"{where}:{name}: {shown(path)} defines no {name!r}; name the variable that holds the App"
                raise UsageError(msg)
        return frozenset(places)

    def _include(self, node: ast.expr, source: Source, places: set[Place]) -> None:
        scope = module_scope(self.project, source)
        place = origin(node, scope)
        if place is None or place in places:
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

    # ------------------------------------------------------------ what comes out

    def findings(self) -> Iterator[Finding]:
        for source, found in self.found.values():
            if not self.is_ignored(source, found):
                line, column = (
                    found.node.lineno,
                    source.column(found.node.lineno, found.node.col_offset),
                )
                yield Finding(
                    shown(source.path),
                    line,
                    column,
                    found.rule,
                    found.name,
                    found.workflow,
                    found.helper,
                )

    def is_ignored(self, source: Source, found: Found) -> bool:
        ignored = False
        for comment in source.ignores:
            if found.node.lineno == comment.line and found.rule.code in comment.codes:
                comment.used.add(found.rule.code)
                ignored = True
        return ignored

    def broken(self) -> Iterator[Finding]:
        """Files that are no Python: those that were named, and those that a workflow needs."""
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
        unused = [
            code for code in comment.codes if code in self.chosen and code not in comment.used
        ]
        if UNUSED_IGNORE.code in self.chosen and unused:
            yield Finding(*place, UNUSED_IGNORE, f"an unused ignore[{', '.join(unused)}]")


def _split(text: str) -> tuple[str, str]:
    """`shop.py:app` as what to look at and the name of an app, which may be absent."""
    where, colon, name = text.rpartition(":")
    if (
        not colon or Path(text).exists() or "/" in name or "\\" in name
    ):  # C:\\shop.py has a colon, too
        return text, ""
    if not where or not name.isidentifier():
        msg = (
            f"{text!r} names no code; write a PATH, a MODULE or MODULE:APP, for example shop.py:app"
        )
        raise UsageError(msg)
    return where, name


def shown(path: Path) -> str:
    """A path as people see it from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
