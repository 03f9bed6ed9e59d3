"""The names that a piece of code binds."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from perdure.lint.values import FunctionNode


def bound_by(node: ast.stmt) -> Iterator[str]:
    """The names that a statement binds itself, without the names bound in its blocks."""
    match node:
        case ast.Import(names=names):
            # `import a.b` binds `a`, and `import a.b as c` binds `c`.
            yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
        case ast.ImportFrom(names=names):
            yield from (alias.asname or alias.name for alias in names if alias.name != "*")
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Try(handlers=handlers) | ast.TryStar(handlers=handlers):
            yield from (handler.name for handler in handlers if handler.name)
        case ast.Match(subject=subject, cases=cases):
            yield from _stored(subject)
            for case in cases:
                yield from captured(case.pattern)
        case _:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr | ast.withitem):
                    yield from _stored(child)


def captured(pattern: ast.pattern) -> Iterator[str]:
    """The names that a pattern binds."""
    for node in ast.walk(pattern):
        match node:
            case (
                ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
                | ast.MatchMapping(rest=str(name))
            ):
                yield name
            case _:
                continue


def _stored(node: ast.AST, *, walrus_only: bool = False) -> Iterator[str]:
    """The names that an expression binds.

    The loop variables of a comprehension are local to it. Its `:=` binds in the scope around it.
    """
    if isinstance(node, ast.Name):
        if not walrus_only and not isinstance(node.ctx, ast.Load):
            yield node.id
    elif isinstance(node, ast.NamedExpr):
        yield node.target.id
        yield from _stored(node.value, walrus_only=walrus_only)
    elif not isinstance(node, ast.Lambda):  # a lambda has a scope of its own, also for `:=`
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            walrus_only = True
        for child in ast.iter_child_nodes(node):
            yield from _stored(child, walrus_only=walrus_only)


def parts_of(node: ast.stmt) -> Iterator[tuple[list[ast.stmt], bool]]:
    """The blocks of a compound statement, and for each whether it handles an exception."""
    match node:
        case ast.If() | ast.For() | ast.AsyncFor() | ast.While():
            yield node.body, False
            yield node.orelse, False
        case ast.With() | ast.AsyncWith():
            yield node.body, False
        case ast.Try() | ast.TryStar():
            yield node.body, False
            for handler in node.handlers:
                yield handler.body, True
            yield node.orelse, False
            yield node.finalbody, False
        case ast.Match(cases=cases):
            for case in cases:
                yield case.body, False
        case _:
            return


def names_of(node: FunctionNode | ast.Lambda) -> set[str]:
    """The names that are local to a function."""
    arguments = node.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names |= {a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None}
    if isinstance(node, ast.Lambda):
        return names
    # The walk does not keep the order of the source, so declared names are taken out at the end.
    declared: set[str] = set()
    todo: list[ast.stmt] = list(node.body)
    while todo:
        statement = todo.pop()
        if isinstance(statement, ast.Global | ast.Nonlocal):
            declared |= set(statement.names)
        names |= set(bound_by(statement))
        for part, _ in parts_of(statement):
            todo += part
    return names - declared
