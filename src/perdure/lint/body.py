"""A workflow function and its helpers, statement by statement.

The code is walked once, in the order in which it is written. Each name that it loads is looked up
in the catalogue, even without a call, because a clock that is handed on is read as well. Functions
of the same package are followed. Activities, children and the functions of `workflow.checkpoint`
are not followed, because their results are recorded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from perdure.lint import catalogue
from perdure.lint.bindings import captured, parts_of
from perdure.lint.catalogue import ENTRIES, Rule
from perdure.lint.classes import find_method, is_property
from perdure.lint.order import hazard, ignores_order, ordered_arguments
from perdure.lint.roots import Root, registration_of
from perdure.lint.scope import Scope
from perdure.lint.source import Source
from perdure.lint.values import MUTABLE, TEXT, Class, External, Function, Object, Value, is_number

_LOOP_METHODS = {"run_in_executor": catalogue.THREAD, "run_until_complete": catalogue.LOOP}
_CHANGES = frozenset(
    {
        "add",
        "append",
        "clear",
        "discard",
        "extend",
        "insert",
        "pop",
        "popitem",
        "remove",
        "setdefault",
        "update",
    }
)
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True, slots=True)
class Found:
    """One place in the code of a workflow that breaks a rule."""

    source: Source
    node: ast.expr | ast.stmt
    rule: Rule
    name: str
    workflow: str
    helper: str | None


class Walk:
    """One workflow: the functions still to do, and what was found."""

    def __init__(self, root: Root) -> None:
        """Walk it all."""
        self.root = root
        self.found: list[Found] = []
        self.seen: set[ast.AST] = {root.function.node}
        self.todo = [root.function]
        while self.todo:
            function = self.todo.pop()
            Body(self, function, function.scope.enter(function)).run(function.node.body)

    def follow(self, function: Function | None) -> None:
        """Look at a function, too, if it is of the same package, and no activity or workflow."""
        if function is None or function.node in self.seen or registration_of(function) is not None:
            return
        if function.scope.source.path.is_relative_to(self.root.source.package):
            self.seen.add(function.node)
            self.todo.append(function)


class Body:
    """The code of one function, and of the functions inside of it."""

    def __init__(self, walk: Walk, function: Function, scope: Scope) -> None:
        """Ready to run."""
        self.walk, self.function, self.scope = walk, function, scope
        self.shared: set[str] = set()  # what `global` has declared
        self.nested: list[Function] = []
        self.recorded: set[str] = set()  # functions that are made for a checkpoint

    def inside(self, scope: Scope) -> Body:
        """The same code, one scope further in."""
        inner = Body(self.walk, self.function, scope)
        inner.shared, inner.nested, inner.recorded = self.shared, self.nested, self.recorded
        return inner

    def run(self, body: list[ast.stmt]) -> None:
        """Walk the statements, then the functions that they define."""
        self.block(body)
        for inner in self.nested:
            self.walk.seen.add(inner.node)
            if inner.node.name not in self.recorded and registration_of(inner) is None:
                below = Body(self.walk, self.function, inner.scope.enter(inner))
                below.run(inner.node.body)

    def report(self, node: ast.expr | ast.stmt, rule: Rule, name: str) -> None:
        """Note a finding."""
        own = self.function.node.name
        helper = None
        if self.function.node is not self.walk.root.function.node:
            helper = own
        root = self.walk.root.function.node.name
        self.walk.found.append(Found(self.scope.source, node, rule, name, root, helper))

    # ------------------------------------------------------------ statements

    def block(self, body: list[ast.stmt]) -> None:
        """Walk statements, and those inside of them."""
        for statement in body:
            self.statement(statement)
            if isinstance(statement, ast.Match):
                self.match(statement)
                continue
            for part, _ in parts_of(statement):
                self.block(part)

    def statement(self, node: ast.stmt) -> None:
        """What a statement does itself; then what it binds."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
                    self.expression(part)
                self.nested.append(Function(node, self.scope))
            case ast.ClassDef():
                for part in (*node.decorator_list, *node.bases):
                    self.expression(part)
                self.inner_class(node)
            case ast.Global(names=names):
                self.shared |= set(names)
            case ast.AnnAssign():
                self.targets([node.target])
                self.expression(node.value)
            case ast.For() | ast.AsyncFor():
                self.expression(node.iter)
                self.in_order(node.iter)
            case ast.With(items=items) | ast.AsyncWith(items=items):
                for item in items:
                    self.expression(item.context_expr)
            case ast.Try() | ast.TryStar():
                for handler in node.handlers:
                    self.expression(handler.type)
            case ast.Match(subject=subject):
                self.expression(subject)
            case _:
                self.simple(node)
        self.scope.execute(node)

    def simple(self, node: ast.stmt) -> None:
        """A statement without blocks of its own."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expression(child)
        match node:
            case ast.Assign(targets=targets, value=value):
                self.targets(targets)
                if any(isinstance(target, ast.Tuple | ast.List) for target in targets):
                    self.in_order(value)
            case ast.AugAssign(target=target):
                self.targets([target])
            case ast.Delete(targets=targets):
                self.targets(targets)
            case _:
                return

    def inner_class(self, node: ast.ClassDef) -> None:
        """The body of a class runs where it stands; its methods are taken for called."""
        owner = Class(node, self.scope)
        body = Body(self.walk, self.function, self.scope.child())
        body.block(node.body)
        self.nested += [Function(method.node, self.scope, owner) for method in body.nested]

    def match(self, node: ast.Match) -> None:
        """The cases of a `match`, with what their patterns bind."""
        for case in node.cases:
            for name in captured(case.pattern):
                self.scope.bind(name, None)
            self.expression(case.guard)
            self.block(case.body)

    def targets(self, targets: list[ast.expr]) -> None:
        """Writes that outlive the run: into a global variable, or into what one holds."""
        for target in targets:
            match target:
                case ast.Name(id=name) if name in self.shared:
                    self.report(target, catalogue.GLOBAL, f"global {name}")
                case ast.Tuple(elts=parts) | ast.List(elts=parts):
                    self.targets(parts)
                case ast.Subscript(value=holder) | ast.Attribute(value=holder) if self.is_shared(
                    holder
                ):
                    self.report(target, catalogue.GLOBAL, ast.unparse(target))
                case _:
                    continue

    def is_shared(self, node: ast.expr) -> bool:
        """Whether an expression is an object that a module holds."""
        match node:
            case ast.Name(id=name):
                holder, value = self.scope.holder(name), self.scope.look_up(name)
                of_module = holder is not None and holder.parent is None
                return (
                    of_module
                    and isinstance(value, Object)
                    and (value.builtin in MUTABLE or not value.builtin)
                )
            case ast.Subscript(value=inner) | ast.Attribute(value=inner):
                return self.is_shared(inner)
            case _:
                return False

    # ------------------------------------------------------------ expressions

    def expression(self, node: ast.AST | None, *, any_order: bool = False) -> None:
        """Judge an expression and its parts. With `any_order` the order of elements is not used."""
        match node:
            case None | ast.Constant():
                return
            case ast.Name() | ast.Attribute() if isinstance(node.ctx, ast.Load):
                self.load(node, None)
            case ast.Name():
                return
            case ast.Call():
                self.call(node, any_order=any_order)
            case ast.Lambda():
                self.inside(self.scope.enter(node)).expression(node.body)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self.comprehension(node, any_order=any_order or isinstance(node, ast.SetComp))
            case ast.Set(elts=parts):
                for part in parts:
                    self.expression(part.value if isinstance(part, ast.Starred) else part)
            case ast.Starred(value=inner) | ast.YieldFrom(value=inner):
                self.expression(inner)
                self.in_order(inner)
            case ast.NamedExpr(target=target, value=value):
                self.expression(value)
                self.scope.unpack(target, self.scope.evaluate(value))
            case _:
                for child in ast.iter_child_nodes(node):
                    self.expression(child)

    def comprehension(self, node: _Comprehension, *, any_order: bool) -> None:
        """A comprehension: its first source belongs to the scope around it."""
        inner = self.inside(self.scope.inside(node))
        for number, generator in enumerate(node.generators):
            outer = inner
            if number == 0:
                outer = self
            outer.expression(generator.iter)
            if not any_order:
                outer.in_order(generator.iter)
            for condition in generator.ifs:
                inner.expression(condition)
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            inner.expression(part)

    def call(self, node: ast.Call, *, any_order: bool) -> None:
        """A call: what is called, what it is given, and what it does with that."""
        function = self.scope.evaluate(node.func)
        if isinstance(function, External) and function.name == "perdure.workflow.checkpoint":
            self.recorded |= {n.id for n in _below(node) if isinstance(n, ast.Name)}
            return
        self.load(node.func, node)
        taken = ordered_arguments(node, function)
        any_order = ignores_order(function) or (any_order and bool(taken))
        for part in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.expression(part, any_order=any_order)
        for part in taken if not any_order else ():
            self.in_order(part)
        if isinstance(function, Class):
            for method in ("__init__", "__post_init__"):
                self.walk.follow(find_method(function, method))
            self.default_factories(function, node)
        self.changes(node)

    def default_factories(self, made: Class, node: ast.Call) -> None:
        """What makes the fields of a dataclass that a call does not give."""
        if not made.scope.source.path.is_relative_to(self.walk.root.source.package):
            return
        given = {keyword.arg for keyword in node.keywords}
        fields = [statement for statement in made.node.body if isinstance(statement, ast.AnnAssign)]
        for field in fields[len(node.args) :] if None not in given else ():
            match field:
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(keywords=options)) if (
                    name not in given
                ):
                    for option in options:
                        if option.arg == "default_factory":
                            self.inside(made.scope).expression(option.value)
                case _:
                    continue

    def changes(self, node: ast.Call) -> None:
        """A method that changes what it is called on."""
        match node.func:
            case ast.Attribute(value=holder, attr=name) if name in _CHANGES:
                value = self.scope.evaluate(holder)
            case _:
                return
        if not isinstance(value, Object) or value.builtin not in MUTABLE:
            return
        if self.is_shared(holder):
            self.report(node, catalogue.GLOBAL, f"{ast.unparse(holder)}.{name}()")
        is_new = not value.arguments or value.arguments[0] is None
        if (
            isinstance(holder, ast.Name)
            and value.builtin == "set"
            and name == "add"
            and is_new
            and node.args
        ):
            added = self.scope.evaluate(node.args[0])
            if self.scope.holder(holder.id) is self.scope and added == TEXT:
                self.scope.bind(holder.id, Object(value.type, (added,)))

    def load(self, node: ast.AST, call: ast.Call | None) -> None:
        """A name, or a chain of attributes: the whole of it is judged, then what it begins with."""
        if not isinstance(node, ast.Name | ast.Attribute):
            self.expression(node)
        elif not self.judge(node, call) and isinstance(node, ast.Attribute):
            self.load(node.value, None)

    def judge(self, node: ast.Name | ast.Attribute, call: ast.Call | None) -> bool:
        """Whether it breaks a rule itself."""
        value = self.scope.evaluate(node)
        if isinstance(value, External) and (entry := ENTRIES.get(value.name)) is not None:
            wrong = not entry.bare or (call is not None and not call.args and not call.keywords)
            if wrong and not (
                entry.name == "hash" and call is not None and self.is_plain_number(call)
            ):
                self.report(node, entry.rule, entry.name + ("()" if call is not None else ""))
                return True
        elif isinstance(value, Function):
            self.walk.follow(value)
        if isinstance(node, ast.Attribute):
            return self.judge_attribute(node, value)
        return False

    def judge_attribute(self, node: ast.Attribute, value: Value) -> bool:
        """What an attribute says by its name, and by what it is of."""
        if (rule := _LOOP_METHODS.get(node.attr)) is not None and not isinstance(value, Function):
            self.report(node, rule, f"{node.attr}()")
            return True
        holder = self.scope.evaluate(node.value)
        if node.attr == "fn" and isinstance(holder, Function):
            registration = registration_of(holder)
            if registration is not None and registration.kind == "activity":
                self.report(node, catalogue.PLAIN_FUNCTION, f"{holder.node.name}.fn")
                return True
        if isinstance(holder, Object) and isinstance(holder.type, Class):
            method = find_method(holder.type, node.attr)
            if method is not None and is_property(method.node):
                self.walk.follow(method)
        return False

    def is_plain_number(self, call: ast.Call) -> bool:
        """Whether a call is given a number, whose hash is the same everywhere."""
        return len(call.args) == 1 and is_number(self.scope.evaluate(call.args[0]))

    def in_order(self, node: ast.expr) -> None:
        """The elements of an expression are taken in order."""
        if isinstance(node, ast.Starred):
            return  # the expression inside has been judged
        name = hazard(self.scope.evaluate(node))
        if name is not None:
            self.report(node, catalogue.SET_ORDER, name)


def _below(node: ast.Call) -> Iterator[ast.AST]:
    """Everything in the arguments of a call."""
    for part in (*node.args, *(keyword.value for keyword in node.keywords)):
        yield from ast.walk(part)
