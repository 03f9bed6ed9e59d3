"""The value of a name or an expression, at a place in the code.

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
# Users import from `perdure`, and the catalogue has these names.
_PUBLIC = {
    "perdure.app.App": "perdure.App",
    "perdure.client.client.Client": "perdure.Client",
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
        """`own` are the names that the code binds anywhere, also further down."""
        self.project = project
        self.source = source
        self.parent = parent
        self.values: dict[str, Value] = {}
        self.own = set(own)

    def child(self, own: Iterable[str] = ()) -> Scope:
        """A scope inside this one."""
        return Scope(self.project, self.source, self, own)

    def bind(self, name: str, value: Value) -> None:
        """Give the name this value from here on."""
        self.own.add(name)
        self.values[name] = value

    def look_up(self, name: str) -> Value:
        """The value of a name."""
        # A local name hides the outer one in the whole function, also before it is bound.
        if name in self.own:
            return self.values.get(name)
        if self.parent is not None:
            return self.parent.look_up(name)
        return self.outermost(name)

    def outermost(self, name: str) -> Value:
        """The value of a name that no code of the project binds."""
        if name in _BUILTINS:
            return External(name)
        return None

    def holder(self, name: str) -> Scope | None:
        """The scope that a name belongs to. None for a builtin."""
        if name in self.own:
            return self
        if self.parent is not None:
            return self.parent.holder(name)
        return None

    def import_of(self, name: str) -> tuple[Scope, ast.expr] | None:
        """The scope of the module from which a name is imported, and its name there."""
        return None

    # ------------------------------------------------------------ expressions

    def evaluate(self, node: ast.expr | None) -> Value:
        """The value of an expression. None: it is not known."""
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
                return self._first_known(parts)
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
        """An attribute of a value."""
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

    def _first_known(self, parts: Iterable[ast.expr]) -> Value:
        # `given or default`: the parts have one type in sane code, and one may be unknown.
        for part in parts:
            value = self.evaluate(part)
            if value is not None:
                return value
        return None

    def _display(self, node: ast.Set | ast.List | ast.Tuple | ast.Dict) -> Value:
        if isinstance(node, ast.Dict):
            # `{**other}` has None for the key.
            keys = [self.evaluate(key) for key in node.keys if key is not None]
            values = [self.evaluate(value) for value in node.values]
            return Object(External("dict"), (one_of(keys), one_of(values)))
        values = list(map(self._element, node.elts))
        if isinstance(node, ast.Tuple):
            return Object(External("tuple"), tuple(values))
        if isinstance(node, ast.Set):
            return Object(External("set"), (one_of(values),))
        return Object(External("list"), (one_of(values),))

    def _element(self, node: ast.expr) -> Value:
        if isinstance(node, ast.Starred):
            return element(self.evaluate(node.value))
        return self.evaluate(node)

    def _comprehension(
        self, node: ast.SetComp | ast.ListComp | ast.GeneratorExp | ast.DictComp
    ) -> Value:
        inner = self.inside(node)
        if isinstance(node, ast.DictComp):
            return Object(External("dict"), (inner.evaluate(node.key), inner.evaluate(node.value)))
        part = inner.evaluate(node.elt)
        if isinstance(node, ast.SetComp):
            return Object(External("set"), (part,))
        return Object(External("list"), (part,))

    def inside(self, node: ast.SetComp | ast.ListComp | ast.GeneratorExp | ast.DictComp) -> Scope:
        """The scope of a comprehension."""
        inner = self.child()
        for generator in node.generators:
            inner.unpack(generator.target, element(inner.evaluate(generator.iter)))
        return inner

    def _operation(self, node: ast.BinOp) -> Value:
        left = self.evaluate(node.left)
        right = self.evaluate(node.right)
        match node.op:
            case ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor() if _is_like_set(left):
                # Either side may bring elements whose order differs.
                parts: list[Value] = [part for part in (element(left), element(right)) if part]
                return Object(External("set"), (one_of(parts),))
            case ast.Add() | ast.Mult() | ast.Mod() if TEXT in {left, right}:
                return TEXT
            case ast.Div() if isinstance(left, Object) and left.builtin.startswith("pathlib."):
                return left
            case _ if left == right:
                return left
            case _:
                return None

    def _item(self, node: ast.Subscript) -> Value:
        holder = self.evaluate(node.value)
        if isinstance(holder, External | Class):  # Channel[bool]: the class itself
            return holder
        if not isinstance(holder, Object):
            return None
        if isinstance(node.slice, ast.Slice):
            return holder
        match holder.builtin, holder.arguments, node.slice:
            case "dict", (_, value), _:
                return value
            case "tuple", parts, ast.Constant(value=int(index)) if index < len(parts):
                return parts[index]
            case "str" | "list", _, _:
                return element(holder)
            case _:
                return None

    # ------------------------------------------------------------ annotations

    def annotated(self, node: ast.expr | None) -> Value:
        """The value of a variable with this annotation."""
        match node:
            case ast.Constant(value=str(text)):
                with suppress(SyntaxError):
                    return self.annotated(ast.parse(text, mode="eval").body)
                return None
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                # `set[str] | None` is taken for a set: code that gets None does not iterate.
                both = [self.annotated(left), self.annotated(right)]
                known = [value for value in both if value not in (None, NONE)]
                if len(known) == 1:
                    return known[0]
                return None
            case ast.Constant(value=None):
                return NONE
            case ast.Subscript(value=outer, slice=ast.Tuple(elts=inner)):
                return self._generic(self.evaluate(outer), inner)
            case ast.Subscript(value=outer, slice=inner):
                return self._generic(self.evaluate(outer), [inner])
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
        """Bind the names of an assignment's left side."""
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
                if known is None:
                    known = self.evaluate(value)
                self.unpack(target, known)
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
            if isinstance(node, ast.ImportFrom):
                if alias.name != "*":
                    self.bind(alias.asname or alias.name, self._imported(node, alias.name))
            elif alias.asname:
                self.bind(alias.asname, self._module(alias.name))
            else:
                # `import a.b` binds `a`.
                top = alias.name.partition(".")[0]
                self.bind(top, self._module(top))

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
        # The module may be a folder without `__init__.py`, and the name a file in it.
        below = self.project.imported(self.source, dotted, node.level)
        if below is not None:
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
        if name in self._statements:
            return True
        return self.look_up(name) not in {None, External(name)}

    def holder(self, name: str) -> Scope | None:
        """This one, if the module binds the name."""
        if name in self._statements:
            return self
        return None

    def import_of(self, name: str) -> tuple[Scope, ast.expr] | None:
        """The scope of the module from which a name is imported, and its name there."""
        if name not in self._statements:
            return None
        statement, _ = self._statements[name][-1]  # the last binding counts
        if not isinstance(statement, ast.ImportFrom):
            return None
        source = self.project.imported(self.source, statement.module or "", statement.level)
        if source is None:
            return None
        for alias in statement.names:
            if (alias.asname or alias.name) == name:
                return module_scope(self.project, source), ast.Name(alias.name, ast.Load())
        return None

    def look_up(self, name: str) -> Value:
        """The value of a name in the complete module. Its last binding counts, a fallback least."""
        if name in self.values:
            return self.values[name]
        if name in self._busy:  # `x = x + 1`, or modules that import each other
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
            # In a scope of its own, so that the other names of the statement bind nothing here.
            inner = Scope(self.project, self.source, self)
            inner.execute(node)
            value = _moved(inner.values.get(name), inner, self)
            # `x = None` at the top is a declaration, whose value comes later.
            if not is_fallback and value != NONE:
                return value
            if fallback is None:
                fallback = value
        return fallback

    def _by_star(self, name: str) -> Value:
        for node in self._stars:
            source = self.project.imported(self.source, node.module or "", node.level)
            dotted = f"{node.module}.{name}"
            if source is not None:
                found = module_scope(self.project, source).look_up(name)
                # A builtin is known in each module, and says nothing about this one.
                if found not in (None, External(name)):
                    return found
            elif dotted in ENTRIES:
                return External(dotted)
        return self.outermost(name)


def module_scope(project: Project, source: Source) -> ModuleScope:
    """The scope of a file, made once."""
    if source not in project.scopes:
        project.scopes[source] = ModuleScope(project, source)
    return project.scopes[source]


def _bind_self(inner: Scope, function: Function, owner: Class) -> None:
    """Bind the first parameter of a method."""
    parameters = [*function.node.args.posonlyargs, *function.node.args.args]
    decorators = {d.id for d in function.node.decorator_list if isinstance(d, ast.Name)}
    if not parameters or "staticmethod" in decorators:
        return
    first: Value = Object(owner)
    if "classmethod" in decorators:
        first = owner
    inner.bind(parameters[0].arg, first)


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


def _is_like_set(value: Value) -> bool:
    """Whether `|` and `&` of a value make a set. They do for the keys of a dict, too."""
    if isinstance(value, Object) and value.builtin == "dict_keys":
        return True
    return is_set(value)


def _entered(value: Value) -> Value:
    """The value that `with` binds. Most context managers of interest return themselves."""
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
