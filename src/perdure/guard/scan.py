"""What a workflow function loads that replay cannot repeat: found in its bytecode, before it ever runs.

Theory of operation. `scan` follows the instructions of a function in order and keeps the one object that the last of
them would have put on the stack, as far as that is known without running anything: globals, builtins, closures,
attributes of modules and classes, imports of loaded modules, and locals assigned from those. So names do not matter,
objects do: `from time import time as clock` is found, and a method of yours called `now` is not. Nested functions, and
functions of the same package that the code refers to, are followed. What is handed to `workflow.checkpoint` is left
out: its result is recorded.

A function sees only the globals that exist: scan when the module is complete (a node's start), not in a decorator.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import (
    BuiltinFunctionType,
    CellType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import cast

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
from perdure.lint.catalogue import ENVIRONMENT, FORBIDDEN, PRIVATE, SET_ORDER, Entry, Rule, entries
from perdure.lint.comment import is_ignored

_NAMES = tuple(
    (PRIVATE.get(entry.name, module), entry, name.removesuffix("()"))
    for module, rule, names in FORBIDDEN
    for name in names.split()
    for entry in entries(((module, rule, name),)).values()
)
_MODULES = sorted({module for module, _, _ in _NAMES})
_LIGHT = (
    "datetime",
    "random",
    "secrets",
    "time",
    "uuid",
)  # imported to be known; the others only if the program did


@dataclass(frozen=True)
class Finding:
    """One place in workflow code that replay cannot repeat, by the rule that it breaks."""

    file: str
    line: int
    name: str
    rule: Rule

    @property
    def remedy(self) -> str:
        """What to write instead."""
        return self.rule.remedy

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule.code} {self.name}: {self.rule.remedy}"


# Only objects of these types are looked up, so that no user-defined `__hash__` or `__eq__` ever runs.
_PLAIN_TYPES = frozenset(
    {BuiltinFunctionType, ClassMethodDescriptorType, FunctionType, MethodType, type}
)


def forbidden() -> Mapping[object, Entry]:
    """The callables of the catalogue whose modules are loaded, by object."""
    for light in _LIGHT:
        importlib.import_module(light)
    loaded = [sys.modules.get(name) for name in _MODULES]
    return _forbidden(
        tuple((id(module), len(vars(module))) for module in loaded if module is not None)
    )


@functools.lru_cache(maxsize=4)
def _forbidden(_loaded: tuple[tuple[int, int], ...]) -> Mapping[object, Entry]:
    """Made anew only when a module has been loaded, or has got further in loading."""
    known: dict[object, Entry] = {}
    for module_name, entry, name in _NAMES:
        module = sys.modules.get(module_name)
        if module is not None:
            for form in _forms(module, name):
                known.setdefault(form, entry)
    return known


def look_up(known: Mapping[object, Entry], item: object) -> Entry | None:
    """The entry of an object, of whatever type it may be."""
    return known.get(item) if type(item) in _PLAIN_TYPES else None


def scan(fn: Callable[..., object], package: str | None = None) -> list[Finding]:
    """What `fn`, its nested functions and its helpers load that replay cannot repeat, by file and line.

    `package` is the top-level package whose functions are followed (default: that of `fn`). Raises TypeError for what
    has no Python code. Lines with `# perdure: ignore[CODE]` are left out. Costs a millisecond or two; nothing of the
    code is run.
    """
    findings = dict.fromkeys(_Scan(fn, package).findings)
    found = (
        finding
        for finding in findings
        if not is_ignored(finding.file, finding.line, finding.rule.code)
    )
    return sorted(found, key=lambda finding: (finding.file, finding.line, finding.name))


def reachable(fn: Callable[..., object], package: str | None = None) -> list[CodeType]:
    """The code objects that `scan` looks at: of `fn`, its nested functions and its helpers."""
    return list(_Scan(fn, package).codes.values())


def _forms(module: ModuleType, name: str) -> Iterator[object]:
    """The objects that a name may stand for: as it is, as the class holds it, and without our own wrapper."""
    owner, _, attribute = name.rpartition(".")
    holder: object = vars(module).get(owner) if owner else module
    item = (
        getattr(holder, attribute, None)
        if isinstance(holder, type)
        else vars(module).get(attribute)
    )
    if type(item) not in _PLAIN_TYPES:  # not on this platform, or not in this version
        return
    yield item
    if isinstance(holder, type):
        yield inspect.getattr_static(holder, attribute)
    if isinstance(item, FunctionType):
        yield inspect.unwrap(item)


_CACHE = type(functools.cache(int))
_MISSING = object()
_TEXTS = object()  # stands for a set of strings that is made here
_ANY_ORDER: tuple[object, ...] = (sorted, sum, min, max, any, all, set, frozenset)
_IN_ORDER: tuple[object, ...] = (list, tuple, iter, enumerate)
_TEXT_SETS = re.compile(
    r"(?:[\w.]*\.)?(?:set|frozenset|Set|AbstractSet|FrozenSet)\[(?:str|bytes)\]"
)
_LOOKED_AT = 100  # elements of a global set, which may be large


class _Scan:
    """One scan: the functions still to do, the code seen and the findings."""

    def __init__(self, fn: Callable[..., object], package: str | None) -> None:
        start = _function(fn)
        if start is None:
            raise TypeError(
                f"scan() needs a Python function, got {fn!r}: pass the plain function of the workflow"
            )
        self.package = package or _top(start.__module__)
        self.known = forbidden()
        self.findings: list[Finding] = []
        self.codes: dict[int, CodeType] = {}
        self.todo = [start]
        while self.todo:
            function = self.todo.pop()
            scope: dict[str, object] = {}
            for name, cell in zip(
                function.__code__.co_freevars, function.__closure__ or (), strict=True
            ):
                scope[name] = _content(cell)
            scope |= {
                name: _TEXTS
                for name in function.__code__.co_varnames
                if _is_annotated(function, name)
            }
            self.follow(function.__code__, function.__globals__, scope)

    def follow(self, code: CodeType, names: dict[str, object], scope: dict[str, object]) -> None:
        if id(code) not in self.codes:
            self.codes[id(code)] = code
            body = _Body(self, code, names, scope)
            for nested in body.nested():
                self.follow(
                    nested, names, {n: body.scope[n] for n in nested.co_freevars if n in body.scope}
                )


class _Body:
    """The instructions of one code object, walked once."""

    def __init__(
        self, scan: _Scan, code: CodeType, names: dict[str, object], scope: dict[str, object]
    ) -> None:
        self.scan, self.code, self.names, self.scope = scan, code, names, scope
        self.steps = steps(code)
        self.functions: list[CodeType] = []
        self.recorded: list[Step] = []  # calls of workflow.checkpoint
        self.recorded_names: set[object] = set()
        self.set_calls: list[Step] = []
        self.in_order: list[Step] = []  # calls that take what they are given apart, in its order
        self.any_order: list[Step] = []  # calls that do not mind the order
        self.module: object = _MISSING  # what the last import named
        top: object = _MISSING
        for number, step in enumerate(self.steps):
            if _is_texts(top) and self.takes_in_order(number):
                self.find(step, "iteration over a set of strings", SET_ORDER)
            top = self.load(number, step, top)
            if any(call.covers(step) for call in self.recorded):
                if step.op in LOADS_LOCAL:
                    self.recorded_names.add(step.value)
            elif isinstance(step.value, CodeType):
                self.functions.append(step.value)
            elif top is not _MISSING and step.op not in KEEPS_TOP:
                self.judge(number, step, top)

    def nested(self) -> list[CodeType]:
        """The functions defined inside, but for those that are only made for a checkpoint."""
        return [code for code in self.functions if code.co_name not in self.recorded_names]

    def find(self, step: Step, name: str, rule: Rule) -> None:
        self.scan.findings.append(Finding(self.code.co_filename, step.start[0], name, rule))

    def load(self, number: int, step: Step, top: object) -> object:
        """What the instruction leaves on top of the stack, if that is known."""
        op, name = step.op, step.value
        if op in KEEPS_TOP or (
            op in {"SWAP", "POP_TOP"} and self.steps[number - 1].op in {"IMPORT_FROM", "SWAP"}
        ):
            return top
        if op in _MAKES_SETS and self.makes_text_set(number):
            return _TEXTS
        if op in {"LOAD_ATTR", "LOAD_METHOD"}:
            self.method(number, top)
        if not isinstance(name, str) or op == "LOAD_CONST":
            return _MISSING
        if op == "LOAD_GLOBAL" or op in LOADS_NAME:
            places = (self.scope if op in LOADS_NAME else {}, self.names, vars(builtins))
            return next((place[name] for place in places if name in place), _MISSING)
        if op in LOADS_LOCAL:
            return self.scope.get(name, _MISSING)
        if op in {"LOAD_ATTR", "LOAD_METHOD"}:
            return self.attribute(top, name)
        if op == "IMPORT_NAME":
            self.module = self.imported(number, name)
            return self.module
        if op == "IMPORT_FROM":
            return self.attribute(self.module, name)
        if op.startswith("STORE_") and op not in {"STORE_ATTR", "STORE_GLOBAL"}:
            self.scope[name] = top
        return _MISSING

    def attribute(self, holder: object, name: str) -> object:
        """An attribute, without running a line of anybody's `__getattr__`."""
        if isinstance(holder, ModuleType):
            return vars(holder).get(name, sys.modules.get(f"{holder.__name__}.{name}", _MISSING))
        owner = holder if isinstance(holder, type) else type(holder)
        if isinstance(holder, type) or _top(owner.__module__) == self.scan.package:
            return inspect.getattr_static(owner, name, _MISSING)
        return _MISSING

    def imported(self, number: int, name: str) -> object:
        level, wanted = (step.value for step in self.steps[number - 2 : number])
        if isinstance(level, int) and level:
            name = importlib.util.resolve_name(
                "." * level + name, str(self.names.get("__package__") or "")
            )
        return sys.modules.get(name if wanted else _top(name), _MISSING)

    def judge(self, number: int, step: Step, item: object) -> None:
        if any(item is function for function in _ANY_ORDER):
            self.any_order += self.call_of(number)
            if item is set or item is frozenset:
                self.set_calls += self.call_of(number)
        elif any(item is function for function in _IN_ORDER):
            self.in_order += self.call_of(number)
        elif item is os.environ:
            self.find(step, "os.environ", ENVIRONMENT)
        elif (entry := look_up(self.scan.known, item)) is not None:
            call = self.call_of(number)
            if not entry.bare or (call and call[0].op == "CALL" and call[0].arguments == 0):
                self.find(step, entry.name, entry.rule)
        elif (function := _function(item)) is not None:
            if function.__name__ == "checkpoint" and _top(function.__module__) == "perdure":
                self.recorded += self.call_of(number)
            elif _top(function.__module__) == self.scan.package:
                self.scan.todo.append(function)

    def call_of(self, number: int) -> list[Step]:
        """The instruction that calls what this one loads, if one does: its source begins there and ends later."""
        load = self.steps[number]
        calls = (
            step for step in self.steps[number + 1 :] if step.op in CALLS and step.covers(load)
        )
        return [call for call in calls if call.end > load.end or call.end[1] == WHOLE_LINE][:1]

    # ------------------------------------------------------------ sets of strings

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
        if any(call.covers(step) and not step.covers(call) for call in self.any_order):
            return False
        if step.op == "GET_ITER":
            return not self.makes_set_again(number)
        if step.op == "CALL":
            return step.arguments == 1 and step in self.in_order
        if step.op == "CALL_FUNCTION_EX":
            return not step.arguments & 1
        return step.op in _TAKES_APART

    def makes_set_again(self, number: int) -> bool:
        """Whether an iteration is that of a set comprehension, a function of its own before Python 3.12."""
        here = self.steps[number]
        before = (step for step in self.steps[:number] if step.covers(here) and here.covers(step))
        after = (
            step
            for step in self.steps[number + 1 : number + 6]
            if step.op == "BUILD_SET" and not step.arguments
        )
        return any(
            isinstance(s.value, CodeType) and s.value.co_name == "<setcomp>" for s in before
        ) or any(step.covers(here) for step in after)

    def makes_text_set(self, number: int) -> bool:
        """Whether this step leaves a set that is written here, with a string among its elements."""
        source = self.steps[number]
        if source.op == "LOAD_CONST":
            return source.value.__class__ is frozenset and _has_text(source.value)
        if source.op in CALLS and source not in self.set_calls:
            return False
        inside = [
            step for step in self.steps[:number] if source.covers(step) and not step.covers(source)
        ]
        if (
            source.end[1] != WHOLE_LINE
        ):  # constants are added to an empty set, as one step of the same stretch
            inside += [
                step
                for step in self.steps[:number]
                if step.op == "LOAD_CONST" and step[3:] == source[3:]
            ]
        parts = [step for step in inside if step.op == "LOAD_CONST" and _has_text(step.value)]
        wraps = [
            s for s in inside if s.op not in COLLECTS | KEEPS_TOP and not s.op.startswith("LOAD_")
        ]
        return any(not any(wrap.covers(part) for wrap in wraps) for part in parts)


_MAKES_SETS = CALLS | {"LOAD_CONST", "BUILD_SET", "SET_UPDATE"}
_TAKES_APART = frozenset({"GET_YIELD_FROM_ITER", "LIST_EXTEND", "UNPACK_SEQUENCE", "UNPACK_EX"})


def _is_texts(item: object) -> bool:
    """Whether it is a set with a string in it, or stands for one."""
    if type(item) is set or type(item) is frozenset:
        some = itertools.islice(cast("Iterable[object]", item), _LOOKED_AT)
        return any(isinstance(element, (str, bytes)) for element in some)
    return item is _TEXTS


def _is_annotated(function: FunctionType, name: str) -> bool:
    """Whether a parameter is declared as a set of strings."""
    declared = function.__annotations__.get(name)
    text = declared.strip("\"'") if isinstance(declared, str) else str(declared)
    return _TEXT_SETS.fullmatch(text) is not None


def _top(module: object) -> str:
    return str(module).partition(".")[0]


def _has_text(value: object) -> bool:
    if isinstance(value, (frozenset, tuple)):
        return any(isinstance(element, (str, bytes)) for element in cast("Iterable[object]", value))
    return isinstance(value, (str, bytes))


def _function(item: object) -> FunctionType | None:
    """The plain function behind a method or a cache."""
    if isinstance(item, (MethodType, staticmethod, classmethod)):
        item = cast("MethodType", item).__func__
    elif type(item) is _CACHE:
        item = inspect.unwrap(cast("Callable[..., object]", item))
    return item if isinstance(item, FunctionType) else None


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # empty: the name is assigned later
        return _MISSING
