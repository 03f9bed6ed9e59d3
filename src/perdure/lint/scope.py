"""What a name or an expression stands for, at a place in the code.

A function's scope is filled statement by statement, as its code is walked. So a name that is bound
again means the new value from there on. A module's scope has the values of the complete module,
each evaluated when it is first needed.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from perdure.lint.bindings import bound_by, names_of, parts_of
from perdure.lint.catalogue import ENTRIES
from perdure.lint.classes import class_attribute
from perdure.lint.results import call_result
from perdure.lint.values import (
    BYTES,
    NUMBER,
    TEXT,
    Class,
    External,
    Function,
    FunctionNode,
    Module,
    Object,
    Value,
    canonical,
    element,
    is_set,
    one_of,
)

if TYPE_CHECKING:
    from perdure.lint.project import Project
    from perdure.lint.source import Source

NONE = Object(External("None"))

_BUILTINS = frozenset(vars(builtins))
_PUBLIC = {
    "perdure.app.App": "perdure.App",
    "perdure.client.Client": "perdure.Client",
    "perdure.node.Node": "perdure.Node",
    "perdure.node.node.Node": "perdure.Node",
}
_TRANSPARENT = frozenset({"Optional", "Annotated", "Final", "ClassVar", "Required", "NotRequired"})
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


class Scope:
    """The names of a function, a comprehension or a module."""

    def __init__(
        self, project: Project, source: Source, parent: Scope | None, own: Iterable[str] = ()
    ) -> None:
        """`own` are the names that the code binds anywhere, whether or not it has got there."""
        self.project, self.source, self.parent = project, source, parent
        self.values: dict[str, Value] = {}
        self.own = set(own)

    def child(self, own: Iterable[str] = ()) -> Scope:
        """A scope inside this one."""
        return Scope(self.project, self.source, self, own)

    def bind(self, name: str, value: Value) -> None:
        """From here on, the name stands for this."""
        self.own.add(name)
        self.values[name] = value

    def look_up(self, name: str) -> Value:
        """What a name stands for."""
        if name in self.own:
            return self.values.get(name)
        if self.parent is not None:
            return self.parent.look_up(name)
        return self.outermost(name)

    def outermost(self, name: str) -> Value:
        """What a name stands for that no code of the project binds."""
        if name in _BUILTINS:
            return External(name)
        return None

    def holder(self, name: str) -> Scope | None:
        """The scope that a name belongs to; None for a builtin."""
        if name in self.own:
            return self
        if self.parent is not None:
            return self.parent.holder(name)
        return None

    def import_of(self, name: str) -> tuple[Scope, ast.expr] | None:
        """For a name that a module imports from another one: that one, and its name there."""
        return None

    # ------------------------------------------------------------ expressions

    def evaluate(self, node: ast.expr | None) -> Value:
        """What an expression stands for."""
        match node:
            case ast.Name(id=name):
                return self.look_up(name)
            case ast.Attribute(value=holder, attr=name):
                return self.attribute(self.evaluate(holder), name)
            case ast.Call():
                return call_result(node, self)
            case ast.Await(value=inner) | ast.NamedExpr(value=inner):
                return self.evaluate(inner)
            case ast.Constant(value=constant):
                return _constant(constant)
            case ast.JoinedStr():
                return TEXT
            case ast.IfExp(body=first, orelse=second):
                return one_of([self.evaluate(first), self.evaluate(second)])
            case ast.BoolOp(values=parts):
                return next(
                    (value for part in parts if (value := self.evaluate(part)) is not None), None
                )
            case ast.BinOp():
                return self._operation(node)
            case ast.Subscript():
                return self._item(node)
            case ast.Set() | ast.List() | ast.Tuple() | ast.Dict():
                return self._display(node)
            case ast.SetComp() | ast.ListComp() | ast.GeneratorExp() | ast.DictComp():
                return self._comprehension(node)
            case _:
                return None

    def attribute(self, holder: Value, name: str) -> Value:
        """An attribute of what is known."""
        match holder:
            case External(name=dotted):
                dotted = f"{dotted}.{name}"
                return External(_PUBLIC.get(dotted, dotted))
            case Module(source=source):
                return self.member(source, name)
            case Class():
                return class_attribute(holder, name, instance=False)
            case Object(type=Class() as owner):
                return class_attribute(owner, name, instance=True)
            case Object(type=External(name=dotted)):
                return External(f"{dotted}.{name}")
            case _:
                return None

    def member(self, source: Source, name: str) -> Value:
        """A name of a module of the project, which may be a module below it."""
        scope = module_scope(self.project, source)
        if scope.has(name):
            return scope.look_up(name)
        below = None
        if source.path.name == "__init__.py":
            below = self.project.imported(source, name, 1)
        if below is not None:
            return Module(below)
        return None

    def _display(self, node: ast.Set | ast.List | ast.Tuple | ast.Dict) -> Value:
        if isinstance(node, ast.Dict):
            keys = [self.evaluate(key) for key in node.keys if key is not None]
            return Object(
                External("dict"),
                (one_of(keys), one_of([self.evaluate(value) for value in node.values])),
            )
        values = [
            element(self.evaluate(part.value))
            if isinstance(part, ast.Starred)
            else self.evaluate(part)
            for part in node.elts
        ]
        if isinstance(node, ast.Tuple):
            return Object(External("tuple"), tuple(values))
        return Object(External("set" if isinstance(node, ast.Set) else "list"), (one_of(values),))

    def _comprehension(
        self, node: ast.SetComp | ast.ListComp | ast.GeneratorExp | ast.DictComp
    ) -> Value:
        inner = self.inside(node)
        if isinstance(node, ast.DictComp):
            return Object(External("dict"), (inner.evaluate(node.key), inner.evaluate(node.value)))
        return Object(
            External("set" if isinstance(node, ast.SetComp) else "list"),
            (inner.evaluate(node.elt),),
        )

    def inside(self, node: ast.SetComp | ast.ListComp | ast.GeneratorExp | ast.DictComp) -> Scope:
        """The scope of a comprehension."""
        inner = self.child()
        for generator in node.generators:
            inner.unpack(generator.target, element(inner.evaluate(generator.iter)))
        return inner

    def _operation(self, node: ast.BinOp) -> Value:
        left, right = self.evaluate(node.left), self.evaluate(node.right)
        if isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
            if is_set(left) or (isinstance(left, Object) and left.builtin == "dict_keys"):
                return Object(
                    External("set"),
                    (one_of([part for part in (element(left), element(right)) if part]),),
                )
            if left == right:
                return left
            return None
        if isinstance(node.op, ast.Add | ast.Mult | ast.Mod) and TEXT in {left, right}:
            return TEXT
        if (
            isinstance(node.op, ast.Div)
            and isinstance(left, Object)
            and left.builtin.startswith("pathlib.")
        ):
            return left
        if left == right:
            return left
        return None

    def _item(self, node: ast.Subscript) -> Value:
        holder = self.evaluate(node.value)
        if not isinstance(holder, Object):
            return (
                holder if isinstance(holder, External | Class) else None
            )  # Channel[bool]: the class itself
        if isinstance(node.slice, ast.Slice):
            return holder
        if holder.builtin == "dict":
            if len(holder.arguments) > 1:
                return holder.arguments[1]
            return None
        if holder.builtin == "tuple":
            match node.slice:
                case ast.Constant(value=int(index)) if index < len(holder.arguments):
                    return holder.arguments[index]
                case _:
                    return None
        if holder.builtin in {"str", "list"}:
            return element(holder)
        return None

    # ------------------------------------------------------------ annotations

    def annotated(self, node: ast.expr | None) -> Value:
        """What a variable with this annotation holds."""
        match node:
            case ast.Constant(value=str(text)):
                with suppress(SyntaxError):
                    return self.annotated(ast.parse(text, mode="eval").body)
                return None
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                known = [
                    v
                    for v in (self.annotated(left), self.annotated(right))
                    if v not in (None, NONE)
                ]
                if len(known) == 1:
                    return known[0]
                return None
            case ast.Constant(value=None):
                return NONE
            case ast.Subscript(value=outer, slice=inner):
                return self._generic(
                    self.evaluate(outer), inner.elts if isinstance(inner, ast.Tuple) else [inner]
                )
            case ast.Name() | ast.Attribute():
                found = self.evaluate(node)
                if isinstance(found, External):
                    return Object(External(canonical(found.name)))
                if isinstance(found, Class):
                    return Object(found)
                return None
            case _:
                return None

    def _generic(self, outer: Value, inner: list[ast.expr]) -> Value:
        if isinstance(outer, Class):
            return Object(outer)
        if not isinstance(outer, External):
            return None
        if outer.name.rpartition(".")[2] in _TRANSPARENT:
            return self.annotated(inner[0])
        return Object(
            External(canonical(outer.name)), tuple(self.annotated(part) for part in inner)
        )

    # ------------------------------------------------------------ statements

    def unpack(self, target: ast.expr, value: Value) -> None:
        """Bind what an assignment's left side names."""
        match target:
            case ast.Name(id=name):
                self.bind(name, value)
            case ast.Starred(value=inner):
                self.unpack(inner, None)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for part, known in zip(parts, _parts_of(value, len(parts)), strict=True):
                    self.unpack(part, known)
            case _:
                return

    def execute(self, node: ast.stmt) -> None:
        """Bind the names of a statement. The caller walks the blocks of compound statements."""
        match node:
            case ast.Import() | ast.ImportFrom():
                self._import(node)
            case ast.Assign(targets=targets, value=value):
                known = self.evaluate(value)
                for target in targets:
                    self.unpack(target, known)
            case ast.AnnAssign(target=target, annotation=annotation, value=value):
                known = self.annotated(annotation)
                self.unpack(target, known if known is not None else self.evaluate(value))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.bind(node.name, Function(node, self))
            case ast.ClassDef():
                self.bind(node.name, Class(node, self))
            case ast.For() | ast.AsyncFor():
                self.unpack(node.target, element(self.evaluate(node.iter)))
            case ast.With(items=items) | ast.AsyncWith(items=items):
                for item in items:
                    if item.optional_vars is not None:
                        self.unpack(item.optional_vars, _entered(self.evaluate(item.context_expr)))
            case ast.Try() | ast.TryStar() | ast.Match():
                for name in bound_by(node):
                    self.bind(name, None)
            case _:
                return

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                if alias.asname:
                    top = alias.name
                else:
                    top = alias.name.partition(".")[0]
                self.bind(alias.asname or top, self._module(top))
            elif alias.name != "*":
                self.bind(alias.asname or alias.name, self._imported(node, alias.name))

    def enter(self, function: Function | ast.Lambda) -> Scope:
        """The scope of a function that is defined in this one, with its parameters bound."""
        if isinstance(function, Function):
            node: FunctionNode | ast.Lambda = function.node
        else:
            node = function
        inner = self.child(names_of(node))
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            inner.bind(argument.arg, self.annotated(argument.annotation))
        if arguments.vararg is not None:
            inner.bind(
                arguments.vararg.arg,
                Object(External("list"), (self.annotated(arguments.vararg.annotation),)),
            )
        if arguments.kwarg is not None:
            inner.bind(
                arguments.kwarg.arg,
                Object(External("dict"), (TEXT, self.annotated(arguments.kwarg.annotation))),
            )
        if isinstance(function, Function) and function.owner is not None:
            _bind_self(inner, function, function.owner)
        return inner

    def _module(self, name: str) -> Value:
        found = self.project.imported(self.source, name)
        if found is not None:
            return Module(found)
        return External(name)

    def _imported(self, node: ast.ImportFrom, name: str) -> Value:
        module = node.module or ""
        source = self.project.imported(self.source, module, node.level)
        if source is not None:
            return self.member(source, name)
        dotted = name
        if module:
            dotted = f"{module}.{name}"
        below = self.project.imported(self.source, dotted, node.level)
        if below is not None:  # a folder without __init__.py
            return Module(below)
        if not node.level:
            return External(_PUBLIC.get(dotted, dotted))
        return None


class ModuleScope(Scope):
    """The names of a module, worked out when they are looked up."""

    def __init__(self, project: Project, source: Source) -> None:
        """Only the names are collected now."""
        super().__init__(project, source, None)
        self._statements: dict[str, list[tuple[ast.stmt, bool]]] = {}
        self._stars: list[ast.ImportFrom] = []
        self._busy: set[str] = set()
        self._collect(source.tree.body, fallback=False)

    def _collect(self, body: list[ast.stmt], *, fallback: bool) -> None:
        for node in body:
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                self._stars.append(node)
            for name in bound_by(node):
                self._statements.setdefault(name, []).append((node, fallback))
            for part, inner in parts_of(node):
                self._collect(part, fallback=fallback or inner)

    def has(self, name: str) -> bool:
        """Whether the module binds it, or brings it in with a star."""
        return name in self._statements or self.look_up(name) not in {None, External(name)}

    def holder(self, name: str) -> Scope | None:
        """This one, if the module binds the name."""
        if name in self._statements:
            return self
        return None

    def import_of(self, name: str) -> tuple[Scope, ast.expr] | None:
        """For a name that this module imports from another one: that one, and its name there."""
        statement = None
        if name in self._statements:
            statement = self._statements[name][-1][0]
        if not isinstance(statement, ast.ImportFrom):
            return None
        source = self.project.imported(self.source, statement.module or "", statement.level)
        theirs = next(
            alias.name for alias in statement.names if (alias.asname or alias.name) == name
        )
        if source is None:
            return None
        return module_scope(self.project, source), ast.Name(theirs, ast.Load())

    def look_up(self, name: str) -> Value:
        """The value of a name in the complete module. Its last binding counts, a fallback least."""
        if name in self.values:
            return self.values[name]
        if name in self._busy:
            return None
        self._busy.add(name)
        try:
            self.values[name] = self._work_out(name)
        finally:
            self._busy.discard(name)
        return self.values[name]

    def _work_out(self, name: str) -> Value:
        if name not in self._statements:
            return self._by_star(name)
        fallback: Value = None
        for node, is_fallback in reversed(self._statements[name]):
            inner = Scope(self.project, self.source, self)
            inner.execute(node)
            value = _moved(inner.values.get(name), inner, self)
            if not is_fallback and value != NONE:
                return value
            if fallback is None:
                fallback = value
        return fallback

    def _by_star(self, name: str) -> Value:
        for node in self._stars:
            source = self.project.imported(self.source, node.module or "", node.level)
            if source is not None:
                found = module_scope(self.project, source).look_up(name)
                if found is not None and not (isinstance(found, External) and found.name == name):
                    return found
            elif f"{node.module}.{name}" in ENTRIES:
                return External(f"{node.module}.{name}")
        return self.outermost(name)


def module_scope(project: Project, source: Source) -> ModuleScope:
    """The scope of a file, made once."""
    if source not in project.scopes:
        project.scopes[source] = ModuleScope(project, source)
    return project.scopes[source]


def _bind_self(inner: Scope, function: Function, owner: Class) -> None:
    """What the first parameter of a method is."""
    parameters = [*function.node.args.posonlyargs, *function.node.args.args]
    decorators = {d.id for d in function.node.decorator_list if isinstance(d, ast.Name)}
    if parameters and "staticmethod" not in decorators:
        inner.bind(parameters[0].arg, owner if "classmethod" in decorators else Object(owner))


def _moved(value: Value, inner: Scope, scope: Scope) -> Value:
    """The value that a statement defines, in the scope of the module instead of the statement."""
    match value:
        case Function(node=node, scope=defined) if defined is inner:
            return Function(node, scope)
        case Class(node=node, scope=defined) if defined is inner:
            return Class(node, scope)
        case _:
            return value


def _parts_of(value: Value, count: int) -> Sequence[Value]:
    """The values that unpacking gives to `count` targets."""
    if isinstance(value, Object) and value.builtin == "tuple" and len(value.arguments) == count:
        return value.arguments
    return [element(value)] * count


def _entered(value: Value) -> Value:
    """What `with` gives: most context managers of interest give themselves."""
    if isinstance(value, Object):
        return value
    return None


def _constant(value: object) -> Value:
    match value:
        case str():
            return TEXT
        case bytes():
            return BYTES
        case bool() | int() | float() | complex():
            return NUMBER
        case None:
            return NONE
        case _:
            return None
