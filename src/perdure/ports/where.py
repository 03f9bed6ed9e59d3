"""Conditions on search attributes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import eq, ge, gt, le, lt
from typing import Any, Literal, cast, get_args

import msgspec

from perdure.errors import UsageError
from perdure.kernel.attributes import Comparable, Term, comparable
from perdure.kernel.definition import check_name

Op = Literal["=", "!=", "<", "<=", ">", ">=", "in"]
_COMPARE = {"=": eq, "<": lt, "<=": le, ">": gt, ">=": ge}


class Where(msgspec.Struct, frozen=True):
    """A condition on one search attribute: `Where("total", ">=", 100)`, `Where("customer", "in", ["c1", "c2"])`.

    Only values of the same kind are compared: numbers with numbers, text with text, bools with bools, times with
    times; an instance whose attribute is of another kind, or that does not have it, does not fit, whatever the
    operator. A list fits when one of its texts does; with `!=`, when none of them is the value.

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
        if self.op not in get_args(Op):
            msg = f"{self.op!r} is no operator for {self.name!r}; use {', '.join(get_args(Op))}"
            raise UsageError(msg)
        if self.op == "in" and isinstance(self.value, list | tuple):
            msgspec.structs.force_setattr(self, "value", tuple(cast("Sequence[Any]", self.value)))
        _ = self.operands

    @property
    def operands(self) -> tuple[int, list[Comparable]]:
        """The kind of what is looked for, and the values (one, except with `in`)."""
        listed = self.op == "in" and isinstance(self.value, tuple)
        values: Sequence[object] = self.value if listed else (self.value,)  # type: ignore[assignment]
        known = [comparable(value) for value in values]
        kinds = {one[0] for one in known if one is not None}
        if (self.op == "in" and not listed) or None in known or len(kinds) > 1:
            one = "text, a number, a bool or a datetime with a timezone"
            what = one
            if self.op == "in":
                what = "a list of values of one kind"
            msg = f"Where({self.name!r}, {self.op!r}, ...) needs {what}, got {self.value!r}"
            raise UsageError(msg)
        return kinds.pop() if kinds else 0, [one[1] for one in known if one is not None]

    def fits(self, terms: Sequence[Term]) -> bool:
        """Whether an instance with these terms is meant: the rule that every store follows."""
        kind, wanted = self.operands
        found = [value for name, kind_, value in terms if name == self.name and kind_ == kind]
        if self.op == "!=":
            return bool(found) and wanted[0] not in found
        if self.op == "in":
            return any(value in wanted for value in found)
        compare: Any = _COMPARE[self.op]
        return any(compare(value, wanted[0]) for value in found)
