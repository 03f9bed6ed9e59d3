"""The workflow functions of a file, registered with `@app.workflow` or `app.workflow(...)`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from perdure.lint.bindings import parts_of
from perdure.lint.project import Project
from perdure.lint.scope import Scope, module_scope
from perdure.lint.source import Source
from perdure.lint.values import Class, External, Function, Object, Value

Kind = Literal["workflow", "activity"]

_REGISTRARS: dict[str, Kind] = {
    "perdure.App.workflow": "workflow",
    "perdure.WorkflowDecorator": "workflow",
    "perdure.App.activity": "activity",
    "perdure.ActivityDecorator": "activity",
}


@dataclass(frozen=True, slots=True)
class Registration:
    """The registration of a function: its kind, the expression of the app, and the options."""

    kind: Kind
    app: ast.expr | None
    options: dict[str, ast.expr]

    @property
    def is_guarded(self) -> bool:
        """False where the author has switched the guard off: `guard="off"`."""
        match self.options.get("guard"):
            case ast.Constant(value="off"):
                return False
            case _:
                return True


@dataclass(frozen=True, slots=True)
class Root:
    """A workflow function, at which the lint begins."""

    function: Function
    registration: Registration
    scope: Scope

    @property
    def source(self) -> Source:
        """The file of the function."""
        return self.function.scope.source

    @property
    def app(self) -> tuple[Source, str] | None:
        """The definition of the app, if it can be seen: the file, and the name of the variable."""
        return origin(self.registration.app, self.scope)


def registration_of(function: Function) -> Registration | None:
    """The registration of a function by its decorators. None for a plain function."""
    for decorator in function.node.decorator_list:
        target, options = _call_of(decorator)
        kind = _registrar(target, function.scope)
        if kind is not None:
            return Registration(kind, _app_of(target), options)
    return None


def _app_of(target: ast.expr) -> ast.expr | None:
    """The expression of the app in `app.workflow`."""
    if isinstance(target, ast.Attribute):
        return target.value
    return None


def _call_of(decorator: ast.expr) -> tuple[ast.expr, dict[str, ast.expr]]:
    """The callable of a decorator, and its options."""
    if not isinstance(decorator, ast.Call):
        return decorator, {}
    options = {keyword.arg: keyword.value for keyword in decorator.keywords if keyword.arg}
    return decorator.func, options


def _registrar(node: ast.expr, scope: Scope) -> Kind | None:
    """The kind of function that a callable registers. None: it registers none."""
    match scope.evaluate(node):
        case External(name=name) | Object(type=External(name=name)) if name in _REGISTRARS:
            return _REGISTRARS[name]
        case _:
            app = _app_of(node)
    if app is None or not _may_be_app(scope.evaluate(app), scope.source):
        return None
    match node:
        case ast.Attribute(attr="workflow"):
            return "workflow"
        case ast.Attribute(attr="activity"):
            return "activity"
        case _:
            return None


def _may_be_app(value: Value, source: Source) -> bool:
    """Whether a value that is not fully known may be an App.

    Its file imports Perdure, and it is unknown or has the name of a variable: an app may come from
    a module that the lint does not find.
    """
    if value is None:
        return source.imports_perdure
    if isinstance(value, External) and value.name.rpartition(".")[2].islower():
        return source.imports_perdure
    return False


def roots(source: Source, project: Project) -> list[Root]:
    """The workflows of a file, wherever they are defined, in order."""
    # A function may be registered several times, by decorators and by calls.
    found: dict[ast.AST, Root] = {}
    for root in _find(source.tree.body, module_scope(project, source), None):
        found.setdefault(root.function.node, root)
    return sorted(found.values(), key=lambda root: root.function.node.lineno)


def _find(body: list[ast.stmt], scope: Scope, owner: Class | None) -> Iterator[Root]:
    is_module = scope.parent is None
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = Function(node, scope, owner)
            registration = None
            if node.decorator_list:
                registration = registration_of(function)
            if registration is not None and registration.kind == "workflow":
                yield Root(function, registration, scope)
            elif _has_decorators(node.body):
                yield from _find(node.body, scope.enter(function), None)
        elif isinstance(node, ast.ClassDef):
            if _has_decorators(node.body):
                yield from _find(node.body, scope.child(), Class(node, scope))
        else:
            yield from _given(node, scope)
        # The scope of a module has all values already. Others are filled as the walk goes on.
        if not is_module:
            scope.execute(node)
        for part, _ in parts_of(node):
            yield from _find(part, scope, owner)


def _has_decorators(body: list[ast.stmt]) -> bool:
    """Whether a function inside has a decorator, at any depth."""
    todo = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.decorator_list and not isinstance(node, ast.ClassDef):
                return True
            todo += node.body
        for part, _ in parts_of(node):
            todo += part
    return False


def _given(statement: ast.stmt, scope: Scope) -> Iterator[Root]:
    """A function that a call registers: `checkout = app.workflow(version="2.0.0")(plain)`."""
    match statement:
        case (
            ast.Assign(value=ast.Call(func=target, args=[given]))
            | ast.AnnAssign(value=ast.Call(func=target, args=[given]))
            | ast.Expr(value=ast.Call(func=target, args=[given]))
        ):
            inner, options = _call_of(target)
        case _:
            return
    match scope.evaluate(target):
        case External(name=name) | Object(type=External(name=name)):
            kind = _REGISTRARS.get(name)
        case _:
            kind = None
    if kind != "workflow":
        return
    function = scope.evaluate(given)
    if isinstance(function, Function):
        yield Root(function, Registration("workflow", _app_of(inner), options), scope)


def origin(node: ast.expr | None, scope: Scope) -> tuple[Source, str] | None:
    """The file and the name under which a variable was first defined, through all imports."""
    for _ in range(_IMPORTS_DEPTH):
        match node:
            case ast.Name(id=name):
                holder = scope.holder(name)
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                found = scope.look_up(module)
                source = getattr(found, "source", None)
                holder = None
                if isinstance(source, Source):
                    holder = module_scope(scope.project, source)
            case _:
                return None
        if holder is None:
            return None
        imported = holder.import_of(name)
        if imported is None:
            return holder.source, name
        scope, node = imported
    return None


# Imports through which a name is followed. Modules may import it from each other in a circle.
_IMPORTS_DEPTH = 20
