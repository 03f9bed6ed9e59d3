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
import dis
import functools
import importlib
import importlib.util
import inspect
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
from typing import NamedTuple, cast

CLOCK = "replay would see another time: use workflow.now()"
RANDOM = "replay would draw another value: use workflow.random()"
UUID = "replay would make another id: use workflow.uuid4()"
SLEEP = "it blocks the node: use `await asyncio.sleep(...)`, which is a durable timer here"
EFFECT = "replay would repeat it: do it in an activity"
THREAD = "threads and processes have no order that replay could repeat: make it an activity (`def` ones run on threads)"
SET_ORDER = "its order differs between processes: iterate over sorted(...)"

_LIGHT = ("datetime", "random", "secrets", "time", "uuid")  # imported to be known; the others only if the program did
_CATALOGUE: tuple[tuple[str, str, str], ...] = (
    ("time", CLOCK, "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns"),
    ("time", CLOCK, "thread_time thread_time_ns clock_gettime clock_gettime_ns localtime() gmtime() ctime() asctime()"),
    ("time", SLEEP, "sleep"),
    ("datetime", CLOCK, "date.today datetime.now datetime.utcnow"),
    ("random", RANDOM, "SystemRandom Random()"),
    ("os", RANDOM, "urandom getrandom"),
    ("secrets", RANDOM, "token_bytes token_hex token_urlsafe randbelow randbits choice"),
    ("uuid", UUID, "uuid1 uuid4 uuid6 uuid7 uuid8"),
    ("builtins", EFFECT, "open input"),
    ("os", EFFECT, "open system popen listdir scandir walk mkdir makedirs remove unlink rename replace rmdir"),
    ("shutil", EFFECT, "copy copy2 copyfile copytree move rmtree"),
    ("tempfile", EFFECT, "mkstemp mkdtemp TemporaryFile NamedTemporaryFile TemporaryDirectory"),
    (
        "socket",
        EFFECT,
        "socket create_connection create_server getaddrinfo gethostbyname gethostbyname_ex gethostbyaddr",
    ),
    ("subprocess", EFFECT, "Popen run call check_call check_output getoutput getstatusoutput"),
    ("urllib.request", EFFECT, "urlopen urlretrieve"),
    ("sqlite3", EFFECT, "connect"),
    ("os", THREAD, "fork"),
    ("threading", THREAD, "Thread Timer"),
    ("_thread", THREAD, "start_new_thread"),
    ("concurrent.futures.thread", THREAD, "ThreadPoolExecutor"),
    ("concurrent.futures.process", THREAD, "ProcessPoolExecutor"),
    ("multiprocessing", THREAD, "Process Pool"),
)
"""Module, remedy, names; `name()` is wrong only without arguments: `Random(1)` and `gmtime(0)` repeat themselves."""


@dataclass(frozen=True)
class Finding:
    """One place in workflow code that replay cannot repeat, and what to write instead."""

    file: str
    line: int
    name: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name}: {self.remedy}"


class Forbidden(NamedTuple):
    """A callable that workflow code must not use; `bare`: only a call without arguments is wrong."""

    name: str
    remedy: str
    bare: bool


# Only objects of these types are looked up, so that no user-defined `__hash__` or `__eq__` ever runs.
_PLAIN_TYPES = frozenset({BuiltinFunctionType, ClassMethodDescriptorType, FunctionType, MethodType, type})


def forbidden() -> dict[object, Forbidden]:
    """The callables of the catalogue whose modules are loaded, by object."""
    for light in _LIGHT:
        importlib.import_module(light)
    known: dict[object, Forbidden] = {}
    for module_name, remedy, names in _CATALOGUE:
        module = sys.modules.get(module_name)
        for spelled in names.split() if module is not None else ():
            name = spelled.removesuffix("()")
            entry = Forbidden(name if module is builtins else f"{module_name}.{name}", remedy, spelled != name)
            for form in _forms(module, name):
                known.setdefault(form, entry)
    random = sys.modules["random"]
    for name in random.__all__:
        if isinstance(method := getattr(random, name), (BuiltinFunctionType, MethodType)):
            known.setdefault(method, Forbidden(f"random.{name}", RANDOM, bare=False))
    return known


def look_up(known: Mapping[object, Forbidden], item: object) -> Forbidden | None:
    """The entry of an object, of whatever type it may be."""
    return known.get(item) if type(item) in _PLAIN_TYPES else None


def scan(fn: Callable[..., object], package: str | None = None) -> list[Finding]:
    """What `fn`, its nested functions and its helpers load that replay cannot repeat, by file and line.

    `package` is the top-level package whose functions are followed (default: that of `fn`). Raises TypeError for what
    has no Python code. Costs about half a millisecond; nothing of the code is run.
    """
    found = dict.fromkeys(_Scan(fn, package).findings)
    return sorted(found, key=lambda finding: (finding.file, finding.line, finding.name))


def reachable(fn: Callable[..., object], package: str | None = None) -> list[CodeType]:
    """The code objects that `scan` looks at: of `fn`, its nested functions and its helpers."""
    return list(_Scan(fn, package).codes.values())


def _forms(module: ModuleType | None, name: str) -> Iterator[object]:
    """The objects that a name may stand for: as it is, as the class holds it, and without our own wrapper."""
    owner, _, attribute = name.rpartition(".")
    holder: object = getattr(module, owner) if owner else module
    item = getattr(holder, attribute, None)
    if item is None:  # not on this platform, or not in this version
        return
    yield item
    if isinstance(holder, type):
        yield inspect.getattr_static(holder, attribute)
    if isinstance(item, FunctionType):
        yield inspect.unwrap(item)


class _Step(NamedTuple):
    """One instruction: its value, and the stretch of source that it stands for, (line, column) to (line, column)."""

    op: str
    value: object
    arguments: int
    start: tuple[int, int]
    end: tuple[int, int]

    def covers(self, other: _Step) -> bool:
        return self.start <= other.start and other.end <= self.end


_CACHE = type(functools.cache(int))
_WHOLE_LINE = 1 << 30
_MISSING = object()
_SUPER = re.compile(r"(?:LOAD|STORE)_FAST(?:_BORROW)?")
_LOADS_LOCAL = frozenset({"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_DEREF", "LOAD_CLASSDEREF"})
_LOADS_NAME = frozenset({"LOAD_NAME", "LOAD_FROM_DICT_OR_DEREF", "LOAD_FROM_DICT_OR_GLOBALS"})
_CALLS = frozenset({"CALL", "CALL_KW", "CALL_FUNCTION_EX"})
_KEEPS_TOP = frozenset({"PUSH_NULL", "NOP", "PRECALL", "CACHE", "EXTENDED_ARG", "COPY_FREE_VARS"})
_COLLECTS = frozenset({"BUILD_LIST", "BUILD_TUPLE", "BUILD_SET", "LIST_EXTEND", "SET_UPDATE", "LIST_APPEND", "SET_ADD"})


def _steps(code: CodeType) -> Iterator[_Step]:
    for instruction in dis.get_instructions(code):
        op, value, at = instruction.opname, instruction.argval, instruction.positions
        line = (at.lineno if at is not None else None) or code.co_firstlineno
        if at is None or at.col_offset is None or at.end_lineno is None or at.end_col_offset is None:
            start, end = (line, 0), (line, _WHOLE_LINE)  # the interpreter was told to keep no columns
        else:
            start, end = (line, at.col_offset), (at.end_lineno, at.end_col_offset)
        if isinstance(value, tuple) and "_FAST" in op:  # 3.13 joins two accesses of locals in one instruction
            for part, name in zip(_SUPER.findall(op), cast("tuple[object, ...]", value), strict=True):
                yield _Step(part, name, 0, start, end)
        else:
            yield _Step(op, value, instruction.arg or 0, start, end)


class _Scan:
    """One scan: the functions still to do, the code seen and the findings."""

    def __init__(self, fn: Callable[..., object], package: str | None) -> None:
        start = _function(fn)
        if start is None:
            raise TypeError(f"scan() needs a Python function, got {fn!r}: pass the plain function of the workflow")
        self.package = package or _top(start.__module__)
        self.known = forbidden()
        self.findings: list[Finding] = []
        self.codes: dict[int, CodeType] = {}
        self.todo = [start]
        while self.todo:
            function = self.todo.pop()
            scope: dict[str, object] = {}
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
                scope[name] = _content(cell)
            self.follow(function.__code__, function.__globals__, scope)

    def follow(self, code: CodeType, names: dict[str, object], scope: dict[str, object]) -> None:
        if id(code) not in self.codes:
            self.codes[id(code)] = code
            body = _Body(self, code, names, scope)
            for nested in body.nested():
                self.follow(nested, names, {n: body.scope[n] for n in nested.co_freevars if n in body.scope})


class _Body:
    """The instructions of one code object, walked once."""

    def __init__(self, scan: _Scan, code: CodeType, names: dict[str, object], scope: dict[str, object]) -> None:
        self.scan, self.code, self.names, self.scope = scan, code, names, scope
        self.steps = list(_steps(code))
        self.functions: list[CodeType] = []
        self.recorded: list[_Step] = []  # calls of workflow.checkpoint
        self.recorded_names: set[object] = set()
        self.set_calls: list[_Step] = []
        self.module: object = _MISSING  # what the last import named
        top: object = _MISSING
        for number, step in enumerate(self.steps):
            top = self.load(number, step, top)
            if any(call.covers(step) for call in self.recorded):
                if step.op in _LOADS_LOCAL:
                    self.recorded_names.add(step.value)
            elif isinstance(step.value, CodeType):
                self.functions.append(step.value)
            elif step.op == "GET_ITER" and self.iterates_strings(number):
                self.find(step, "iteration over a set of strings", SET_ORDER)
            elif top is not _MISSING and step.op not in _KEEPS_TOP:
                self.judge(number, step, top)

    def nested(self) -> list[CodeType]:
        """The functions defined inside, but for those that are only made for a checkpoint."""
        return [code for code in self.functions if code.co_name not in self.recorded_names]

    def find(self, step: _Step, name: str, remedy: str) -> None:
        self.scan.findings.append(Finding(self.code.co_filename, step.start[0], name, remedy))

    def load(self, number: int, step: _Step, top: object) -> object:
        """What the instruction leaves on top of the stack, if that is known."""
        op, name = step.op, step.value
        if op in _KEEPS_TOP or (op in {"SWAP", "POP_TOP"} and self.steps[number - 1].op in {"IMPORT_FROM", "SWAP"}):
            return top
        if not isinstance(name, str):
            return _MISSING
        if op == "LOAD_GLOBAL" or op in _LOADS_NAME:
            places = (self.scope if op in _LOADS_NAME else {}, self.names, vars(builtins))
            return next((place[name] for place in places if name in place), _MISSING)
        if op in _LOADS_LOCAL:
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
            name = importlib.util.resolve_name("." * level + name, str(self.names.get("__package__") or ""))
        return sys.modules.get(name if wanted else _top(name), _MISSING)

    def judge(self, number: int, step: _Step, item: object) -> None:
        if item is set or item is frozenset:
            self.set_calls += self.call_of(number)
        elif (entry := look_up(self.scan.known, item)) is not None:
            call = self.call_of(number)
            if not entry.bare or (call and call[0].op == "CALL" and call[0].arguments == 0):
                self.find(step, entry.name, entry.remedy)
        elif (function := _function(item)) is not None:
            if function.__name__ == "checkpoint" and _top(function.__module__) == "perdure":
                self.recorded += self.call_of(number)
            elif _top(function.__module__) == self.scan.package:
                self.scan.todo.append(function)

    def call_of(self, number: int) -> list[_Step]:
        """The instruction that calls what this one loads, if one does: its source begins there and ends later."""
        load = self.steps[number]
        calls = (step for step in self.steps[number + 1 :] if step.op in _CALLS and step.covers(load))
        return [call for call in calls if call.end > load.end or call.end[1] == _WHOLE_LINE][:1]

    def iterates_strings(self, number: int) -> bool:
        """Whether what is iterated is written here as a set, with a string among its elements."""
        source = self.steps[number - 1]
        if source.op == "LOAD_CONST":
            return source.value.__class__ is frozenset and _has_text(source.value)
        if source.op not in {"BUILD_SET", "SET_UPDATE"} and source not in self.set_calls:
            return False
        inside = [step for step in self.steps[:number] if source.covers(step) and not step.covers(source)]
        parts = [step for step in inside if step.op == "LOAD_CONST" and _has_text(step.value)]
        wraps = [s for s in inside if s.op not in _COLLECTS | _KEEPS_TOP and not s.op.startswith("LOAD_")]
        return any(not any(wrap.covers(part) for wrap in wraps) for part in parts)


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
