"""Mutants: copies of a text in which one expression or statement differs."""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass
from pathlib import Path

# Options of a class that save memory, or that only keep mistakes out.
UNSEEN_OPTIONS = frozenset({"gc", "slots", "frozen"})

COMPARED: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
REACHED: dict[type[ast.operator], str] = {ast.Add: "-", ast.Sub: "+", ast.Mult: "//"}


@dataclass(frozen=True)
class Mutant:
    """A file with one place changed: `text[start:end]` becomes `new`.

    `function` is the line where the function around it begins, 0 outside functions.
    """

    path: Path
    line: int
    start: int
    end: int
    new: str
    function: int = 0

    def applied(self, text: str) -> str:
        """The file's text with the change in it."""
        return text[: self.start] + self.new + text[self.end :]

    def diff(self, text: str) -> str:
        """The change, as lines that were removed and added."""
        lines = difflib.unified_diff(
            text.splitlines(), self.applied(text).splitlines(), n=0, lineterm=""
        )
        return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))


class Finder(ast.NodeVisitor):
    """Collects the mutants of one file, in the order of its text."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        self.found: list[Mutant] = []
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line.encode()))
        self._bytes = text.encode()
        self._function = 0

    def _place(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        # ast counts columns in bytes of UTF-8, and texts are indexed by character.
        first = self._starts[node.lineno - 1] + node.col_offset
        last = self._starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        return len(self._bytes[:first].decode()), len(self._bytes[:last].decode())

    def _add(self, node: ast.expr | ast.stmt, new: str) -> None:
        start, end = self._place(node)
        if self.text[start:end] != new:
            self.found.append(Mutant(self.path, node.lineno, start, end, new, self._function))

    def _source(self, node: ast.expr) -> str:
        start, end = self._place(node)
        return f"({self.text[start:end]})"

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A mutant is called where the innermost function around it is."""
        self._inside(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """The same."""
        self._inside(node)

    def _inside(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        around = self._function
        self._function = node.lineno
        self.generic_visit(node)
        self._function = around

    def visit_If(self, node: ast.If) -> None:
        """An `if` is turned round, unless it only serves type checkers."""
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if not isinstance(node.test, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
            self._add(node.test, f"not {self._source(node.test)}")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """The two values of a conditional expression are exchanged."""
        self._add(node.test, f"not {self._source(node.test)}")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """A comparison is turned round, or its border moves by one."""
        if len(node.ops) == 1:
            other = COMPARED[type(node.ops[0])]
            self._add(
                node, f"({self._source(node.left)} {other} {self._source(node.comparators[0])})"
            )
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """`and` becomes `or`, and the other way round."""
        other = " or " if isinstance(node.op, ast.And) else " and "
        self._add(node, f"({other.join(self._source(value) for value in node.values)})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """`not` is left out."""
        if isinstance(node.op, ast.Not):
            self._add(node, self._source(node.operand))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Plus becomes minus, times becomes divided by. Texts and unions of types stay."""
        other = REACHED.get(type(node.op))
        texts = (node.left, node.right)
        if other and not any(
            isinstance(part, (ast.JoinedStr, ast.Constant)) and _text(part) for part in texts
        ):
            self._add(node, f"({self._source(node.left)} {other} {self._source(node.right)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """A number grows by one, and a truth is turned round."""
        if isinstance(node.value, bool):
            self._add(node, str(not node.value))
        elif isinstance(node.value, int):
            self._add(node, str(node.value + 1))

    def visit_Expr(self, node: ast.Expr) -> None:
        """A call whose value is not used is left out."""
        if isinstance(node.value, ast.Call):
            self._add(node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """A write to an attribute or an item is left out."""
        if isinstance(node.targets[0], (ast.Attribute, ast.Subscript)):
            self._add(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """A running sum is not kept."""
        self._add(node, "pass")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        """A loop ends where it went on."""
        self._add(node, "break")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Annotations have no effect, values do."""
        if node.value is not None:
            self.visit(node.value)

    def visit_keyword(self, node: ast.keyword) -> None:
        """Options that no caller can see are left alone."""
        if node.arg not in UNSEEN_OPTIONS:
            self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        """Annotations of parameters have no effect."""


def _text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


def mutants_of(path: Path, text: str) -> list[Mutant]:
    """All mutants of a file, in the order of its text."""
    finder = Finder(path, text)
    finder.visit(ast.parse(text))
    return sorted(finder.found, key=lambda mutant: (mutant.start, mutant.end, mutant.new))
