"""Finding what replay cannot repeat in the bytecode of a workflow function, before it ever runs.

A node scans each definition when it starts or gets one (`node/deploys.py`). `scan` follows the
instructions of a function in order. It keeps the one object that the last of them would have put on
the stack, as far as that is known without running anything: globals, builtins, closures, attributes
of modules and classes, imports of loaded modules, and locals assigned from those. So names do not
matter, and objects do: `from time import time as clock` is found, and a method of yours called
`now` is not.

Nested functions, and functions of the same package that the code refers to, are followed. Functions
that are handed to `workflow.checkpoint` are left out, because their result is recorded.

A function sees only the globals that exist. So scan when the module is complete, and not in a
decorator.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import (
    CellType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import NamedTuple, cast

from perdure.guard.bytecode import (
    CALLS,
    COLLECTS,
    KEEPS_TOP,
    LOADS_LOCAL,
    LOADS_NAME,
    WHOLE_LINE,
    Step,
    steps,
)
from perdure.guard.classes import (
    MISSING,
    Above,
    Instance,
    Member,
    annotations_of,
    constructors,
    declared,
    function_of,
    is_property,
    member,
    member_above,
)
from perdure.guard.known import forbidden, look_up
from perdure.lint.catalogue import ENVIRONMENT, SET_ORDER, Rule
from perdure.lint.comment import is_ignored


@dataclass(frozen=True)
class Finding:
    """One place in workflow code that replay cannot repeat, by the rule that it breaks."""

    file: str
    line: int
    name: str
    rule: Rule

    @property
    def remedy(self) -> str:
        """The code to write instead."""
        return self.rule.remedy

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule.code} {self.name}: {self.rule.remedy}"


def scan(fn: Callable[..., object], package: str | None = None) -> list[Finding]:
    """Find what `fn`, its nested functions and its helpers load that replay cannot repeat.

    `package` is the top-level package whose functions are followed (default: that of `fn`). Lines
    with `# perdure: ignore[CODE]` are left out. The findings are in order of file and line. It
    takes a millisecond or two, and nothing of the code is run.

    Raises:
        TypeError: `fn` has no Python code.
    """
    found: set[Finding] = set()
    for finding in _Scan(fn, package).findings:
        if not is_ignored(finding.file, finding.line, finding.rule.code):
            found.add(finding)
    return sorted(found, key=lambda finding: (finding.file, finding.line, finding.name))


def reachable(fn: Callable[..., object], package: str | None = None) -> list[CodeType]:
    """The code objects that `scan` looks at: of `fn`, its nested functions and its helpers."""
    return list(_Scan(fn, package).codes.values())


def unawaited(fn: Callable[..., object], name: str) -> list[str]:
    """Where `fn` and its helpers call the activity or workflow `name` and await nothing there.

    Each is "file:line". Places that drop the answer at once are given alone if there are any.
    """
    kept: set[tuple[str, int]] = set()
    dropped: set[tuple[str, int]] = set()
    for call in _Scan(fn, None).calls:
        if call.name != name:
            continue
        if call.then == "POP_TOP":
            dropped.add((call.file, call.line))
        elif call.then != "GET_AWAITABLE":
            kept.add((call.file, call.line))
    return [f"{file}:{line}" for file, line in sorted(dropped or kept)]


# ---------------------------------------------------------------- following functions

_TEXTS = object()
"""Stands for a set of strings that the code makes."""

_ANY_ORDER: tuple[object, ...] = (sorted, sum, min, max, any, all, set, frozenset)
_IN_ORDER: tuple[object, ...] = (list, tuple, iter, enumerate)
_LOADS_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_MAKES_SETS = CALLS | {"LOAD_CONST", "BUILD_SET", "SET_UPDATE"}
_TAKES_APART = frozenset({"GET_YIELD_FROM_ITER", "LIST_EXTEND", "UNPACK_SEQUENCE", "UNPACK_EX"})


class _Call(NamedTuple):
    """A call of an activity or workflow, and the instruction that takes what it returns."""

    name: str
    file: str
    line: int
    then: str


class _Scan:
    """One scan: the functions still to do, the code seen, the findings and the durable calls."""

    def __init__(self, fn: Callable[..., object], package: str | None) -> None:
        start = _function(fn)
        if start is None:
            raise TypeError(
                f"scan() needs a Python function, got {fn!r}: pass the plain function of the "
                "workflow"
            )
        self.package = package or _top(start.__module__)
        self.known = forbidden()
        self.findings: list[Finding] = []
        self.calls: list[_Call] = []
        self.codes: dict[int, CodeType] = {}
        # Functions to go through, each with the class of its object if it is a method.
        self.todo: list[tuple[FunctionType, type | None]] = [(start, _class_of(fn))]
        while self.todo:
            self.read(*self.todo.pop())

    def read(self, function: FunctionType, owner: type | None) -> None:
        """Go through a function of the package."""
        code = function.__code__
        scope: dict[str, object] = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            scope[name] = _content(cell)
        for name, annotation in annotations_of(function).items():
            if name == "return":
                continue
            if _is_text_set(annotation):
                scope[name] = _TEXTS
            else:
                scope[name] = self.own(declared(annotation, function.__globals__))
        if owner is not None and code.co_argcount:
            scope[code.co_varnames[0]] = Instance(owner)
        self.follow(code, function.__globals__, scope)

    def own(self, item: object) -> object:
        """An object of a class of the package. Of other classes no code is read."""
        if isinstance(item, Instance) and _top(item.owner.__module__) != self.package:
            return MISSING
        return item

    def go_into(self, item: object, owner: type | None) -> None:
        """Go through a function too, if it is one of the package."""
        function = _function(item)
        if function is None or _top(function.__module__) != self.package:
            return
        # dataclasses and attrs write functions of their own, and the fields tell what they call.
        if not function.__code__.co_filename.startswith("<"):
            if isinstance(item, staticmethod):
                owner = None
            self.todo.append((function, owner))

    def follow(self, code: CodeType, names: dict[str, object], scope: dict[str, object]) -> None:
        """Go through a code object and those inside it, each once."""
        if id(code) in self.codes:
            return
        self.codes[id(code)] = code
        body = _Body(self, code, names, scope)
        for nested in body.nested():
            # Of a function that is defined inside, only the variables around it are known.
            outer = {name: body.scope[name] for name in nested.co_freevars if name in body.scope}
            self.follow(nested, names, outer)


class _Body:
    """The instructions of one code object, walked once."""

    def __init__(
        self, scan: _Scan, code: CodeType, names: dict[str, object], scope: dict[str, object]
    ) -> None:
        self.scan = scan
        self.code = code
        self.names = names
        self.scope = scope
        self.steps = steps(code)
        self.functions: list[CodeType] = []
        self.recorded: list[Step] = []  # calls of workflow.checkpoint
        self.recorded_names: set[object] = set()
        self.set_calls: list[Step] = []
        self.in_order: list[Step] = []  # calls that take their argument apart, in its order
        self.any_order: list[Step] = []  # calls that do not mind the order
        self.module: object = MISSING  # the module that the last import named
        self.returned: list[tuple[Step, object]] = []  # calls, and what is known to come back
        self.walk()

    def walk(self) -> None:
        top: object = MISSING
        for number, step in enumerate(self.steps):
            if _is_texts(top) and self.takes_in_order(number):
                self.find(step, "iteration over a set of strings", SET_ORDER)
            top = self.load(number, step, top)
            if _is_covered(step, self.recorded):
                # A function that a checkpoint is given by its name is defined before, and is found
                # in `nested`.
                if step.op in LOADS_LOCAL:
                    self.recorded_names.add(step.value)
            elif isinstance(step.value, CodeType):
                self.functions.append(step.value)
            elif top is not MISSING and step.op not in KEEPS_TOP:
                self.judge(number, step, top)

    def nested(self) -> list[CodeType]:
        """The functions defined inside, but for those that are only made for a checkpoint."""
        return [code for code in self.functions if code.co_name not in self.recorded_names]

    def find(self, step: Step, name: str, rule: Rule) -> None:
        self.scan.findings.append(Finding(self.code.co_filename, step.start[0], name, rule))

    def load(self, number: int, step: Step, top: object) -> object:
        """The object that the instruction leaves on top of the stack, if that is known."""
        op, name = step.op, step.value
        if op in KEEPS_TOP or self.keeps_import(number):
            return top
        if op in _MAKES_SETS and self.makes_text_set(number):
            return _TEXTS
        if op in CALLS:
            return self.result(step)
        if op in _LOADS_ATTRIBUTE:
            self.method(number, top)
        if op == "LOAD_SUPER_ATTR" and isinstance(name, str):
            return self.attribute(self.above(), name)
        # The value of a constant may be a text, and is no name.
        if not isinstance(name, str) or op == "LOAD_CONST":
            return MISSING
        if op in _LOADS_ATTRIBUTE:
            return self.attribute(top, name)
        if op == "IMPORT_NAME":
            self.module = self.imported(number, name)
            return self.module
        if op == "IMPORT_FROM":
            return self.attribute(self.module, name)
        if op.startswith("STORE_") and op not in {"STORE_ATTR", "STORE_GLOBAL"}:
            self.scope[name] = top
            return MISSING
        return self.variable(op, name)

    def keeps_import(self, number: int) -> bool:
        """Whether this step only tidies the stack up after `import a.b as c`."""
        if self.steps[number].op not in {"SWAP", "POP_TOP"}:
            return False
        return self.steps[number - 1].op in {"IMPORT_FROM", "SWAP"}

    def variable(self, op: str, name: str) -> object:
        """The object of a name that this kind of instruction looks up."""
        if op in LOADS_LOCAL:
            return self.scope.get(name, MISSING)
        if op in LOADS_NAME and name in self.scope:
            return self.scope[name]
        if op == "LOAD_GLOBAL" or op in LOADS_NAME:
            if name in self.names:
                return self.names[name]
            return vars(builtins).get(name, MISSING)
        return MISSING

    def attribute(self, holder: object, name: str) -> object:
        """An attribute, as far as no line of a `__getattr__` has to run for it."""
        if isinstance(holder, ModuleType):
            submodule = sys.modules.get(f"{holder.__name__}.{name}", MISSING)
            return vars(holder).get(name, submodule)
        if isinstance(holder, type):
            return inspect.getattr_static(holder, name, MISSING)
        if isinstance(holder, Instance):
            return self.scan.own(member(holder.owner, name))
        if isinstance(holder, Above):
            return member_above(holder, name)
        # An object of the package is one that its module made, such as a service.
        if _top(type(holder).__module__) == self.scan.package:
            return self.scan.own(member(type(holder), name))
        return MISSING

    def above(self) -> object:
        """`super()` in this function."""
        after = self.scope.get("__class__", MISSING)
        holder: object = None
        if self.code.co_varnames:
            holder = self.scope.get(self.code.co_varnames[0])
        if isinstance(holder, Instance) and isinstance(after, type):
            return Above(holder.owner, after)
        return MISSING

    def result(self, step: Step) -> object:
        """The object that a call returns, if that is known."""
        for call, item in self.returned:
            if call is step:
                return item
        return MISSING

    def imported(self, number: int, name: str) -> object:
        """The module that an import puts on the stack."""
        level, wanted = (step.value for step in self.steps[number - 2 : number])
        if isinstance(level, int) and level:
            package = str(self.names.get("__package__") or "")
            name = importlib.util.resolve_name("." * level + name, package)
        # `import a.b` gives `a`. With names behind it, as in `from a.b import c`, it gives `a.b`.
        if not wanted:
            name = _top(name)
        return sys.modules.get(name, MISSING)

    def judge(self, number: int, step: Step, item: object) -> None:
        """Decide on an object that the code loads."""
        owner = None
        if isinstance(item, Member):
            item, owner = item
        if _is_among(item, _ANY_ORDER):
            self.any_order += self.call_of(number)
            if item is set or item is frozenset:
                self.set_calls += self.call_of(number)
            return
        if _is_among(item, _IN_ORDER):
            self.in_order += self.call_of(number)
            return
        if item is os.environ:
            self.find(step, "os.environ", ENVIRONMENT)
            return
        entry = look_up(self.scan.known, item)
        if entry is not None:
            if not entry.bare or self.is_bare_call(number):
                self.find(step, entry.name, entry.rule)
            return
        if item is super:
            self.returns(number, self.above())
        elif isinstance(item, type):
            # A class that is only named, such as the type of a message, makes nothing here.
            if _top(item.__module__) == self.scan.package and self.call_of(number):
                self.construct(step, item)
                self.returns(number, Instance(item))
        elif is_property(item):
            self.scan.go_into(function_of(item), owner)
        else:
            self.called(number, item, owner)

    def called(self, number: int, item: object, owner: type | None) -> None:
        """Decide on a function, an activity or a workflow that the code loads."""
        name = _durable_name(item)
        if name is not None:
            self.durable(number, name)
            return
        function = _function(item)
        if function is None:
            return
        if function.__name__ == "checkpoint" and _top(function.__module__) == "perdure":
            self.recorded += self.call_of(number)
            return
        self.scan.go_into(item, owner)
        if not function.__code__.co_flags & inspect.CO_COROUTINE:
            returned = annotations_of(function).get("return")
            self.returns(number, self.scan.own(declared(returned, function.__globals__)))

    def returns(self, number: int, item: object) -> None:
        """Note what the call of the object that this step loads gives back."""
        for call in self.call_of(number):
            self.returned.append((call, item))

    def construct(self, step: Step, owner: type) -> None:
        """Judge and follow all that runs when a class of the package is called."""
        for part in constructors(owner):
            entry = look_up(self.scan.known, part)
            if entry is not None:
                self.find(step, f"{entry.name} (made by {owner.__name__}())", entry.rule)
            else:
                self.scan.go_into(part, owner)

    def durable(self, number: int, name: str) -> None:
        """Note the call of an activity or workflow, which this step loads."""
        load = self.steps[number]
        # The outermost, because `charge.with_options(timeout=5)(order)` is two calls.
        for at in range(len(self.steps) - 2, number, -1):
            step = self.steps[at]
            if step.op in CALLS and step.start == load.start and step.covers(load):
                then = self.steps[at + 1].op
                self.scan.calls.append(_Call(name, self.code.co_filename, step.start[0], then))
                return

    def is_bare_call(self, number: int) -> bool:
        """Whether what this step loads is called without arguments."""
        for call in self.call_of(number):
            return call.op == "CALL" and call.arguments == 0
        return False

    def call_of(self, number: int) -> list[Step]:
        """The instruction that calls what this step loads, if there is one."""
        # Its source begins where that of the step does, and ends later.
        load = self.steps[number]
        for step in self.steps[number + 1 :]:
            is_longer = step.end > load.end or step.end[1] == WHOLE_LINE
            if step.op in CALLS and step.covers(load) and is_longer:
                return [step]
        return []

    # ------------------------------------------------------------ sets of strings

    # The hash of a string differs between processes, and so does the order of a set of strings.

    def method(self, number: int, holder: object) -> None:
        """`", ".join(names)` and `names.pop()`: methods that take elements in order."""
        name = self.steps[number].value
        if name == "join" and isinstance(self.steps[number - 1].value, str):
            self.in_order += self.call_of(number)
        elif name == "pop" and _is_texts(holder):
            self.find(self.steps[number], "iteration over a set of strings", SET_ORDER)

    def takes_in_order(self, number: int) -> bool:
        """Whether this step takes apart, in its order, what the one before it has loaded."""
        step = self.steps[number]
        for call in self.any_order:
            if call.covers(step) and not step.covers(call):
                return False
        if step.op == "GET_ITER":
            return not self.makes_set_again(number)
        if step.op == "CALL":
            return step.arguments == 1 and step in self.in_order
        if step.op == "CALL_FUNCTION_EX":
            # With the lowest bit there are keyword arguments as well, whose mapping is on top.
            return not step.arguments & 1
        return step.op in _TAKES_APART

    def makes_set_again(self, number: int) -> bool:
        """Whether an iteration is that of a set comprehension."""
        here = self.steps[number]
        # Before Python 3.12 it is a function of its own, loaded by a step of the same source.
        for step in self.steps[:number]:
            is_set = isinstance(step.value, CodeType) and step.value.co_name == "<setcomp>"
            if is_set and step.covers(here) and here.covers(step):
                return True
        # Since then an empty set is made soon after.
        return any(
            step.op == "BUILD_SET" and not step.arguments and step.covers(here)
            for step in self.steps[number + 1 : number + 6]
        )

    def makes_text_set(self, number: int) -> bool:
        """Whether this step leaves a set that is written here, with a string among its elements."""
        source = self.steps[number]
        if source.op == "LOAD_CONST":
            return source.value.__class__ is frozenset and _has_text(source.value)
        if source.op in CALLS and source not in self.set_calls:
            return False
        texts: list[Step] = []
        wraps: list[Step] = []
        for step in self.steps[:number]:
            is_inside = source.covers(step) and not step.covers(source)
            if step.op == "LOAD_CONST":
                # Constants are added to an empty set, as one step of the same stretch.
                is_same = step[3:] == source[3:] and source.end[1] != WHOLE_LINE
                if _has_text(step.value) and (is_inside or is_same):
                    texts.append(step)
            elif is_inside and not _only_collects(step):
                wraps.append(step)
        # A text inside of another expression, such as a call, is no element.
        return any(not _is_covered(text, wraps) for text in texts)


def _only_collects(step: Step) -> bool:
    return step.op in COLLECTS or step.op in KEEPS_TOP or step.op.startswith("LOAD_")


def _is_covered(step: Step, calls: Iterable[Step]) -> bool:
    return any(call.covers(step) for call in calls)


# ---------------------------------------------------------------- looking at objects

# No line of the user's code runs here: no `__eq__`, no `__hash__`, no property.

_CACHE = type(functools.cache(int))
_TEXT_SETS = re.compile(
    r"(?:[\w.]*\.)?(?:set|frozenset|Set|AbstractSet|FrozenSet)\[(?:str|bytes)\]"
)
_LOOKED_AT = 100  # elements of a global set, which may be large


def _is_among(item: object, functions: Sequence[object]) -> bool:
    # By identity, as `in` would ask the item's own `__eq__`.
    return any(item is function for function in functions)


def _is_texts(item: object) -> bool:
    """Whether it is a set with a string in it, or stands for one."""
    if type(item) is set or type(item) is frozenset:
        some = itertools.islice(cast("Iterable[object]", item), _LOOKED_AT)
        return any(isinstance(element, (str, bytes)) for element in some)
    return item is _TEXTS


def _has_text(value: object) -> bool:
    if isinstance(value, (frozenset, tuple)):
        return any(isinstance(element, (str, bytes)) for element in cast("Iterable[object]", value))
    return isinstance(value, (str, bytes))


def _is_text_set(annotation: object) -> bool:
    """Whether an annotation is that of a set of strings."""
    # It is a text with `from __future__ import annotations`, and quoted twice if it was quoted.
    if isinstance(annotation, str):
        text = annotation.strip("\"'")
    else:
        text = str(annotation)
    return _TEXT_SETS.fullmatch(text) is not None


def _function(item: object) -> FunctionType | None:
    """The plain function behind a method or a cache."""
    if isinstance(item, (MethodType, staticmethod, classmethod)):
        item = cast("MethodType", item).__func__
    elif type(item) is _CACHE:
        item = inspect.unwrap(cast("Callable[..., object]", item))
    if isinstance(item, FunctionType):
        return item
    return None


def _durable_name(item: object) -> str | None:
    """The name of an activity or workflow."""
    if _top(type(item).__module__) != "perdure":
        return None
    definition = inspect.getattr_static(item, "definition", None)
    name = getattr(definition, "name", None)
    if isinstance(name, str):
        return name
    return None


def _class_of(fn: object) -> type | None:
    """The class of the object whose bound method it is."""
    if isinstance(fn, MethodType) and not isinstance(fn.__self__, type):
        return type(fn.__self__)
    return None


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # empty: the name is assigned later
        return MISSING


def _top(module: object) -> str:
    return str(module).partition(".")[0]
