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
from perdure.lint.catalogue import ENTRIES, Entry, Rule
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
    """One workflow: the functions still to do, and the places found."""

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
        """Walk a function, too, if it is of the same package, and no activity or workflow."""
        if function is None or function.node in self.seen:
            return
        if registration_of(function) is not None:
            return
        # Code of other packages is not the author's to change. The guard sees it when it runs.
        if function.scope.source.path.is_relative_to(self.root.source.package):
            self.seen.add(function.node)
            self.todo.append(function)


class Body:
    """The code of one function, and of the functions inside of it."""

    def __init__(
        self, walk: Walk, function: Function, scope: Scope, around: Body | None = None
    ) -> None:
        """Ready to run. The code inside of `around` adds to the same lists."""
        self.walk = walk
        self.function = function
        self.scope = scope
        self.shared: set[str] = set()  # the names that `global` has declared
        self.nested: list[Function] = []
        self.recorded: set[str] = set()  # functions that are made for a checkpoint
        if around is not None:
            self.shared = around.shared
            self.nested = around.nested
            self.recorded = around.recorded

    def inside(self, scope: Scope) -> Body:
        """The same code, one scope further in."""
        return Body(self.walk, self.function, scope, around=self)

    def run(self, body: list[ast.stmt]) -> None:
        """Walk the statements, then the functions that they define.

        A function may be handed to a checkpoint further down, which this order has seen by then.
        """
        self.block(body)
        for inner in self.nested:
            self.walk.seen.add(inner.node)
            if inner.node.name in self.recorded:
                continue
            if registration_of(inner) is None:
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
        """Judge the expressions of a statement, then bind its names."""
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

    def forgotten(self, node: ast.Expr, target: ast.expr) -> None:
        """A call of an activity or a child whose answer nothing takes."""
        called = self.scope.evaluate(self.without_options(target))
        if isinstance(called, Function) and registration_of(called) is not None:
            self.report(node, catalogue.FORGOTTEN, f"{ast.unparse(target)}()")

    def without_options(self, target: ast.expr) -> ast.expr:
        """The activity of `charge.with_options(...)`, or the workflow of `workflow.child(ship)`."""
        match target:
            case ast.Call(func=ast.Attribute(value=activity, attr="with_options")):
                return activity
            case ast.Call(func=maker, args=[first, *_], keywords=keywords):
                found = self.scope.evaluate(maker)
                is_child = isinstance(found, External) and found.name == "perdure.workflow.child"
                # A rule for when the parent ends first means that it may.
                if is_child and all(keyword.arg != "parent_close" for keyword in keywords):
                    return first
            case _:
                pass
        return target

    def simple(self, node: ast.stmt) -> None:
        """A statement without blocks of its own."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expression(child)
        match node:
            case ast.Expr(value=ast.Call(func=target)):
                self.forgotten(node, target)
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
        """Walk the body of a class, which runs where it stands. Its methods count as called."""
        owner = Class(node, self.scope)
        body = Body(self.walk, self.function, self.scope.child())
        body.block(node.body)
        self.nested += [Function(method.node, self.scope, owner) for method in body.nested]

    def match(self, node: ast.Match) -> None:
        """Walk the cases of a `match`, with the names that their patterns bind."""
        for case in node.cases:
            for name in captured(case.pattern):
                self.scope.bind(name, None)
            self.expression(case.guard)
            self.block(case.body)

    def targets(self, targets: list[ast.expr]) -> None:
        """Report writes that outlive the run: into a global variable, or into its object."""
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
                holder = self.scope.holder(name)
                value = self.scope.look_up(name)
                if holder is None or holder.parent is not None:
                    return False
                # An object of a class of the project has no builtin type, and may change, too.
                return isinstance(value, Object) and value.builtin in {"", *MUTABLE}
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
                # `{*a}` does not use the order of `a`, unlike `[*a]`.
                for part in parts:
                    if isinstance(part, ast.Starred):
                        self.expression(part.value)
                    else:
                        self.expression(part)
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
        """Judge a comprehension. Its first source belongs to the scope around it."""
        inner = self.inside(self.scope.inside(node))
        source: Body = self
        for generator in node.generators:
            source.expression(generator.iter)
            if not any_order:
                source.in_order(generator.iter)
            source = inner
            for condition in generator.ifs:
                inner.expression(condition)
        if isinstance(node, ast.DictComp):
            inner.expression(node.key)
            inner.expression(node.value)
        else:
            inner.expression(node.elt)

    def call(self, node: ast.Call, *, any_order: bool) -> None:
        """Judge a call: the function, the arguments, and the use of their order."""
        function = self.scope.evaluate(node.func)
        if isinstance(function, External) and function.name == "perdure.workflow.checkpoint":
            self.recorded |= {n.id for n in _below(node) if isinstance(n, ast.Name)}
            return
        self.load(node.func, node)
        taken = ordered_arguments(node, function)
        # `sorted(list(s))`: the list takes the order, and the caller does not use it.
        any_order = ignores_order(function) or (any_order and bool(taken))
        for part in _arguments(node):
            self.expression(part, any_order=any_order)
        if not any_order:
            for part in taken:
                self.in_order(part)
        if isinstance(function, Class):
            for method in ("__init__", "__post_init__"):
                self.walk.follow(find_method(function, method))
            self.default_factories(function, node)
        self.changes(node)

    def default_factories(self, made: Class, node: ast.Call) -> None:
        """Judge the default factories of the fields of a dataclass that a call leaves out."""
        if not made.scope.source.path.is_relative_to(self.walk.root.source.package):
            return
        given = {keyword.arg for keyword in node.keywords}
        if None in given:  # `**options` may give any field
            return
        fields = [statement for statement in made.node.body if isinstance(statement, ast.AnnAssign)]
        for field in fields[len(node.args) :]:
            match field:
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(keywords=options)):
                    if name not in given:
                        self.default_factory(options, made.scope)
                case _:
                    continue

    def default_factory(self, options: list[ast.keyword], scope: Scope) -> None:
        """Judge the default factory of one field."""
        for option in options:
            if option.arg == "default_factory":
                self.inside(scope).expression(option.value)

    def changes(self, node: ast.Call) -> None:
        """Report a method that changes an object of a module."""
        match node.func:
            case ast.Attribute(value=holder, attr=name) if name in _CHANGES:
                value = self.scope.evaluate(holder)
            case _:
                return
        if not isinstance(value, Object) or value.builtin not in MUTABLE:
            return
        if self.is_shared(holder):
            self.report(node, catalogue.GLOBAL, f"{ast.unparse(holder)}.{name}()")
        # `set()` does not tell the type of its elements. The first text that is added does.
        is_new_set = value.builtin == "set" and not any(value.arguments)
        if is_new_set and isinstance(holder, ast.Name) and name == "add" and node.args:
            added = self.scope.evaluate(node.args[0])
            if added == TEXT and self.scope.holder(holder.id) is self.scope:
                self.scope.bind(holder.id, Object(value.type, (added,)))

    def load(self, node: ast.AST, call: ast.Call | None) -> None:
        """Judge a name, or a chain of attributes: first the whole chain, then its beginning."""
        if not isinstance(node, ast.Name | ast.Attribute):
            self.expression(node)
        elif not self.judge(node, call) and isinstance(node, ast.Attribute):
            self.load(node.value, None)

    def judge(self, node: ast.Name | ast.Attribute, call: ast.Call | None) -> bool:
        """Report a name that breaks a rule, and say whether it does."""
        value = self.scope.evaluate(node)
        if isinstance(value, Function):
            self.walk.follow(value)
        entry = None
        if isinstance(value, External):
            entry = ENTRIES.get(value.name)
        if entry is not None and self.is_forbidden(entry, call):
            name = entry.name
            if call is not None:
                name = f"{name}()"
            self.report(node, entry.rule, name)
            return True
        if isinstance(node, ast.Attribute):
            return self.judge_attribute(node, value)
        return False

    def is_forbidden(self, entry: Entry, call: ast.Call | None) -> bool:
        """Whether an entry of the catalogue forbids this call, or the name without a call."""
        if entry.bare:
            return call is not None and not call.args and not call.keywords
        # The hash of a number is the same in every process.
        if entry.name == "hash" and call is not None:
            return not self.is_plain_number(call)
        return True

    def judge_attribute(self, node: ast.Attribute, value: Value) -> bool:
        """Report an attribute by its name, and by the object that has it."""
        # Loops come by many ways, so these names count on any object but the project's own.
        rule = _LOOP_METHODS.get(node.attr)
        if rule is not None and not isinstance(value, Function):
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
        """Whether the only argument of a call is a number."""
        return len(call.args) == 1 and is_number(self.scope.evaluate(call.args[0]))

    def in_order(self, node: ast.expr) -> None:
        """Report an expression whose elements are taken in an order that is not the same."""
        if isinstance(node, ast.Starred):
            return  # the expression inside has been judged
        name = hazard(self.scope.evaluate(node))
        if name is not None:
            self.report(node, catalogue.SET_ORDER, name)


def _below(node: ast.Call) -> Iterator[ast.AST]:
    """All nodes in the arguments of a call."""
    for part in _arguments(node):
        yield from ast.walk(part)


def _arguments(node: ast.Call) -> Iterator[ast.expr]:
    """The arguments of a call, by position and by name."""
    yield from node.args
    for keyword in node.keywords:
        yield keyword.value
