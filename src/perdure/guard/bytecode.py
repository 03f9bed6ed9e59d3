"""Bytecode as steps: each instruction with its value and the stretch of source that it stands for.

`scan.py` goes through the steps of a function. What differs between the releases of Python, and can
be made alike, is made alike here.
"""

from __future__ import annotations

import dis
import re
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple, cast


class Step(NamedTuple):
    """One instruction: its value, and its stretch of source, (line, column) to (line, column)."""

    op: str
    value: object
    arguments: int
    start: tuple[int, int]
    end: tuple[int, int]

    def covers(self, other: Step) -> bool:
        """Whether the other one is a part of this one's source."""
        return self.start <= other.start and other.end <= self.end


# More than any column.
WHOLE_LINE = 1 << 30
"""The column at which a step ends whose columns are not known."""

# Each release of Python has names of its own for the same things.
_JOINED = re.compile(r"(?:LOAD|STORE)_FAST(?:_BORROW)?")
LOADS_LOCAL = frozenset(
    {"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_DEREF", "LOAD_CLASSDEREF"}
)
LOADS_NAME = frozenset({"LOAD_NAME", "LOAD_FROM_DICT_OR_DEREF", "LOAD_FROM_DICT_OR_GLOBALS"})
CALLS = frozenset({"CALL", "CALL_KW", "CALL_FUNCTION_EX"})
KEEPS_TOP = frozenset({"PUSH_NULL", "NOP", "PRECALL", "CACHE", "EXTENDED_ARG", "COPY_FREE_VARS"})
COLLECTS = frozenset(
    {
        "BUILD_LIST",
        "BUILD_TUPLE",
        "BUILD_SET",
        "LIST_EXTEND",
        "SET_UPDATE",
        "LIST_APPEND",
        "SET_ADD",
    }
)


def steps(code: CodeType) -> list[Step]:
    """The instructions of a code object, in order."""
    return _iterating_first(list(_plain_steps(code)))


def _plain_steps(code: CodeType) -> Iterator[Step]:
    for instruction in dis.get_instructions(code):
        op = instruction.opname
        value = instruction.argval
        start, end = _stretch(instruction.positions, code)
        # Python 3.13 joins two accesses of locals in one instruction.
        if isinstance(value, tuple) and "_FAST" in op:
            names = cast("tuple[object, ...]", value)
            for part, name in zip(_JOINED.findall(op), names, strict=True):
                yield Step(part, name, 0, start, end)
        else:
            yield Step(op, value, instruction.arg or 0, start, end)


def _stretch(at: dis.Positions | None, code: CodeType) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where an instruction's source begins and ends."""
    line = code.co_firstlineno
    if at is None:
        return (line, 0), (line, WHOLE_LINE)
    # An instruction that stands for no source has no line.
    line = at.lineno or line
    if at.col_offset is None or at.end_lineno is None or at.end_col_offset is None:
        # The interpreter was told to keep no columns.
        return (line, 0), (line, WHOLE_LINE)
    return (line, at.col_offset), (at.end_lineno, at.end_col_offset)


def _iterating_first(found: list[Step]) -> list[Step]:
    """Move each GET_ITER to the place that it has in most releases."""
    # Comprehensions of Python 3.15 put their locals apart between loading what they iterate over
    # and GET_ITER. Before, GET_ITER came first.
    for number, step in enumerate(found):
        if step.op == "GET_ITER":
            start = number
            while start and _puts_apart(found[start - 1]):
                start -= 1
            if any(apart.op == "LOAD_FAST_AND_CLEAR" for apart in found[start:number]):
                found.insert(start, found.pop(number))
    return found


def _puts_apart(step: Step) -> bool:
    if step.op in {"BUILD_LIST", "BUILD_SET", "BUILD_MAP"}:
        # An empty one, for the comprehension to fill.
        return not step.arguments
    return step.op in {"LOAD_FAST_AND_CLEAR", "MAKE_CELL", "SWAP"}
