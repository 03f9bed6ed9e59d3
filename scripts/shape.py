"""The shape of the source as figures with bounds: what a reader feels and no linter counts.

`make check` runs it. The bounds stand in pyproject.toml under [tool.perdure.shape], beside their
targets. They are a ratchet: a change that improves a figure also moves its bound to the new value,
so that the figure cannot get worse again.

    python scripts/shape.py            prints the figures and fails when one is worse than its bound
    python scripts/shape.py FOLDER     the same for another clone
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100

DECISIONS = (ast.IfExp, ast.BoolOp, ast.comprehension)
STATEMENTS = (ast.If, ast.For, ast.AsyncFor, ast.While)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Module:
    """One Python file of the package."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The first part of the name under perdure: `kernel` for perdure.kernel.run."""
        return ".".join(self.name.split(".")[1:2])

    @property
    def lines(self) -> int:
        """How many lines the file has."""
        return self.text.count("\n")


def modules_of(root: Path) -> list[Module]:
    """All modules of a clone's package, by path."""
    source = root / "src"
    found: list[Module] = []
    for path in sorted((source / "perdure").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        text = path.read_text(encoding="utf-8")
        found.append(Module(".".join(parts), path, text, ast.parse(text)))
    return found


def per(count: int, of: int, whole: int) -> float:
    """`count` per so many of a whole, to one decimal. A whole of nothing has none."""
    if not whole:
        return 0.0
    return round(of * count / whole, 1)


# Writes to other objects


def targets(node: ast.AST) -> list[ast.expr]:
    """What an assignment writes to."""
    if isinstance(node, ast.Assign):
        return node.targets
    if isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        return [node.target]
    return []


def foreign_writes(tree: ast.Module) -> int:
    """Attributes written from outside of their object: all but those of `self` and `cls`."""
    count = 0
    for node in ast.walk(tree):
        for target in targets(node):
            for part in ast.walk(target):
                if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                    own = isinstance(part.value, ast.Name) and part.value.id in {"self", "cls"}
                    count += not own
    return count


def foreign_writes_in(package: str, modules: Sequence[Module]) -> float:
    """Writes to other objects' attributes per 1,000 lines of a package."""
    chosen = [module for module in modules if module.package == package]
    writes = sum(foreign_writes(module.tree) for module in chosen)
    return per(writes, 1_000, sum(module.lines for module in chosen))


def foreign_writes_kernel(modules: Sequence[Module]) -> float:
    """The figure for kernel/."""
    return foreign_writes_in("kernel", modules)


def foreign_writes_node(modules: Sequence[Module]) -> float:
    """The figure for node/."""
    return foreign_writes_in("node", modules)


def foreign_writes_store(modules: Sequence[Module]) -> float:
    """The figure for store/."""
    return foreign_writes_in("store", modules)


# Decisions, comments, prose, width


def expression_decisions(modules: Sequence[Module]) -> float:
    """Decisions inside expressions for each decision in a statement."""
    nodes = [node for module in modules for node in ast.walk(module.tree)]
    inside = sum(isinstance(node, DECISIONS) for node in nodes)
    stated = sum(isinstance(node, STATEMENTS) for node in nodes)
    return round(inside / max(1, stated), 2)


def comments(modules: Sequence[Module]) -> float:
    """Comments per 100 lines."""
    count = 0
    for module in modules:
        tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
        count += sum(token.type == tokenize.COMMENT for token in tokens)
    return per(count, 100, sum(module.lines for module in modules))


def sentences(docstring: str) -> Iterator[str]:
    """The sentences of a docstring of three words or more, without code and indented blocks."""
    prose = re.sub(r"``?[^`]*``?", "X", docstring)
    prose = re.sub(r"(?ms)^\s*(>>>|\.\.|    ).*?$", "", prose)
    for sentence in re.split(r"(?<=[.!?])\s+", prose):
        if len(words(sentence)) >= 3:
            yield sentence


def words(text: str) -> list[str]:
    """The words of a text."""
    return re.findall(r"[A-Za-z']+", text)


def semicolons(modules: Sequence[Module]) -> float:
    """Semicolons per 1,000 words of docstrings."""
    found = 0
    total = 0
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, DOCUMENTED):
                for sentence in sentences(ast.get_docstring(node) or ""):
                    found += sentence.count(";")
                    total += len(words(sentence))
    return per(found, 1_000, total)


def wide_lines(modules: Sequence[Module]) -> float:
    """Lines of more than 100 columns."""
    return sum(len(line) > WIDTH for module in modules for line in module.text.splitlines())


# Import circles


@dataclass
class Imports:
    """Which module imports which, by statements outside of functions."""

    modules: Sequence[Module]
    with_types: bool
    arrows: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        self._names = {module.name for module in self.modules}
        for module in self.modules:
            self._read(module, module.tree.body)
            self.arrows[module.name].discard(module.name)

    def _read(self, module: Module, body: Sequence[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.If):
                if self.with_types or not for_types(node):
                    self._read(module, node.body)
                self._read(module, node.orelse)
            elif isinstance(node, ast.Try):
                for part in (node.body, node.orelse, node.finalbody):
                    self._read(module, part)
                for handler in node.handlers:
                    self._read(module, handler.body)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    self._point(module, alias.name)
            elif isinstance(node, ast.ImportFrom):
                self._read_from(module, node)

    def _read_from(self, module: Module, node: ast.ImportFrom) -> None:
        origin = node.module or ""
        if node.level:
            origin = relative(module, node)
        for alias in node.names:
            name = f"{origin}.{alias.name}"
            if name in self._names:
                self.arrows[module.name].add(name)
            elif origin in self._names:
                self.arrows[module.name].add(origin)

    def _point(self, module: Module, name: str) -> None:
        # `import a.b.c` names an attribute at its end, or a package that is not ours.
        while name and name not in self._names:
            name = name.rpartition(".")[0]
        if name:
            self.arrows[module.name].add(name)

    def circles(self) -> list[set[str]]:
        """Groups of modules that reach each other."""
        reached = {name: self._reached(name) for name in self._names}
        groups: list[set[str]] = []
        for name in sorted(self._names):
            group = {other for other in reached[name] if name in reached[other]}
            if group and group not in groups:
                groups.append(group)
        return groups

    def _reached(self, start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = self.arrows[waiting.pop()] - seen
            seen |= new
            waiting.extend(new)
        return seen


def for_types(node: ast.If) -> bool:
    """Is it `if TYPE_CHECKING:`?"""
    test = ast.unparse(node.test)
    return "TYPE_CHECKING" in test and not test.startswith("not")


def relative(module: Module, node: ast.ImportFrom) -> str:
    """The absolute name of a relative import's origin."""
    parts = module.name.split(".")
    if module.path.name != "__init__.py":
        parts = parts[:-1]
    parts = parts[: len(parts) - (node.level - 1)]
    if node.module:
        parts = [*parts, node.module]
    return ".".join(parts)


def circles_at_run_time(modules: Sequence[Module]) -> float:
    """Modules that stand in an import circle when the program runs."""
    return sum(len(circle) for circle in Imports(modules, with_types=False).circles())


DOORS = {
    "perdure.app": "perdure.node",
    "perdure.activity": "perdure.client.client",
    "perdure.client.client": "perdure.sync",
    "perdure.node.node": "perdure.sync",
}
"""The doors that users go through from below: `app.node()`, `activity.client()`, `client.sync()` and
`node.sync()` name what they give, for type checkers only. Nothing else may point upwards."""


def circles_for_types(modules: Sequence[Module]) -> float:
    """Modules in circles that cross packages, with the imports for type checkers.

    The doors are left out.
    """
    packages = {module.name: module.package for module in modules}
    imports = Imports(modules, with_types=True)
    for below, above in DOORS.items():
        imports.arrows[below].discard(above)
    circles = imports.circles()
    crossing = [circle for circle in circles if len({packages[name] for name in circle}) > 1]
    return sum(len(circle) for circle in crossing)


# The table


@dataclass(frozen=True)
class Figure:
    """A figure: its key in pyproject.toml, what it counts, and whether more of it is better."""

    key: str
    title: str
    count: Callable[[Sequence[Module]], float]
    more_is_better: bool = False

    def crossed(self, value: float, bound: float) -> bool:
        """Say whether a value is on the wrong side of its bound."""
        if self.more_is_better:
            return value < bound
        return value > bound


FIGURES = (
    Figure(
        "foreign-writes-kernel", "writes to others / 1,000 lines, kernel", foreign_writes_kernel
    ),
    Figure("foreign-writes-node", "writes to others / 1,000 lines, node", foreign_writes_node),
    Figure("foreign-writes-store", "writes to others / 1,000 lines, store", foreign_writes_store),
    Figure("expression-decisions", "decisions in expressions : statements", expression_decisions),
    Figure("comments", "comments / 100 lines", comments, more_is_better=True),
    Figure("semicolons", "semicolons / 1,000 docstring words", semicolons),
    Figure("wide-lines", "lines over 100 columns", wide_lines),
    Figure("circles-run-time", "modules in import circles, run time", circles_at_run_time),
    Figure("circles-types", "modules in circles of packages, types", circles_for_types),
)


def bounds_of(root: Path) -> dict[str, float]:
    """The bounds of a clone. Raises KeyError when the table or one of its keys is missing."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    table = project["tool"]["perdure"]["shape"]
    return {figure.key: float(table[figure.key]) for figure in FIGURES}


def report(root: Path) -> tuple[list[str], bool]:
    """The table of a clone, and whether a bound is crossed."""
    modules = modules_of(root)
    bounds = bounds_of(root)
    lines = [f"{'':42}{'now':>9}{'bound':>9}"]
    failed = False
    for figure in FIGURES:
        value = figure.count(modules)
        bound = bounds[figure.key]
        verdict = ""
        if figure.crossed(value, bound):
            failed = True
            verdict = "  worse"
        lines.append(f"{figure.title:42}{value:>9g}{bound:>9g}{verdict}")
    return lines, failed


def main(argv: Sequence[str]) -> int:
    """Print the table, and fail when a figure is worse than its bound."""
    root = ROOT
    if argv:
        root = Path(argv[0])
    lines, failed = report(root)
    print("\n".join(lines))
    if failed:
        print("A figure crosses its bound in pyproject.toml, [tool.perdure.shape]. Mend the code.")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
