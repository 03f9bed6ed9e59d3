"""Conditions on search attributes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import eq, ge, gt, le, lt
from typing import Any, Literal, cast, get_args

import msgspec

from perdure.errors import UsageError
from perdure.kernel.data.attributes import Comparable, Term, comparable
from perdure.kernel.data.definition import check_name

Op = Literal["=", "!=", "<", "<=", ">", ">=", "in"]
_COMPARE = {"=": eq, "<": lt, "<=": le, ">": gt, ">=": ge}


class Where(msgspec.Struct, frozen=True):
    """A condition on one search attribute.

    Examples are `Where("total", ">=", 100)` and `Where("customer", "in", ["c1", "c2"])`.

    Only values of the same kind are compared: numbers with numbers, text with text, bools with
    bools, times with times. An instance does not fit, whatever the operator, if it lacks the
    attribute or has one of another kind. A list fits when one of its texts does. With `!=` it fits
    when none of them is the value.

    Raises:
        UsageError: the operator or the value is none.
        DefinitionError: the name cannot be that of an attribute.
    """

    name: str
    op: Op
    value: (
        str
        | int
        | float
        | bool
        | datetime
        | Sequence[str]
        | Sequence[int]
        | Sequence[float]
        | Sequence[datetime]
    )

    def __post_init__(self) -> None:
        """Check it, and make it independent of the caller's list."""
        check_name(self.name, "a search attribute")
        # The type is checked by checkers only, and filters come from command lines, too.
        if self.op not in get_args(Op):
            msg = f"{self.op!r} is no operator for {self.name!r}; use {', '.join(get_args(Op))}"
            raise UsageError(msg)
        if self.op == "in" and isinstance(self.value, list | tuple):
            msgspec.structs.force_setattr(self, "value", tuple(cast("Sequence[Any]", self.value)))
        _ = self.operands  # refuses a wrong value here, where the caller wrote it

    @property
    def operands(self) -> tuple[int, list[Comparable]]:
        """The kind of the values, and the values themselves (one, except with `in`)."""
        values: Sequence[object] = (self.value,)
        if self.op == "in":
            if not isinstance(self.value, tuple):
                raise self._unfit("a list of values of one kind")
            values = self.value
        kind = 0  # a list without values has no kind, and fits nothing
        known: list[Comparable] = []
        for value in values:
            term = comparable(value)
            mixed = term is not None and known and term[0] != kind
            if term is None or mixed:
                if self.op == "in":
                    raise self._unfit("a list of values of one kind")
                raise self._unfit("text, a number, a bool or a datetime with a timezone")
            kind, one = term
            known.append(one)
        return kind, known

    def _unfit(self, needed: str) -> UsageError:
        return UsageError(
            f"Where({self.name!r}, {self.op!r}, ...) needs {needed}, got {self.value!r}"
        )

    def fits(self, terms: Sequence[Term]) -> bool:
        """Whether an instance with these terms fits. Every store follows this rule."""
        kind, wanted = self.operands
        found = [value for name, kind_, value in terms if name == self.name and kind_ == kind]
        # A list of texts has a term for each of them, so that there can be several values.
        if self.op == "in":
            return not set(wanted).isdisjoint(found)
        if self.op == "!=":
            # Without an attribute of this kind there is nothing to differ from.
            if not found:
                return False
            return wanted[0] not in found
        compare: Any = _COMPARE[self.op]
        return any(compare(value, wanted[0]) for value in found)
