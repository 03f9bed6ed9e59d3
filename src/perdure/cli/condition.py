"""`--where`: a condition on a search attribute, typed as text."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, cast

import msgspec

from perdure.errors import PerdureError, UsageError
from perdure.ports.where import Op, Where

# Operators of two characters come before those that are their beginning. `in` stands alone, because
# names may contain it.
_FORM = re.compile(r"\s*([^\s=!<>]+)\s*(!=|<=|>=|=|<|>|\bin\b)(?![=<>!])\s*(.*?)\s*", re.DOTALL)


def parse_condition(text: str) -> Where:
    """`customer=c1`, `total>=100`, `customer in ["c1", "c2"]`.

    The value is JSON, a time with a timezone, or text.

    Raises:
        UsageError: it is no condition. The message has an example.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        msg = (
            f"--where {text!r} is no condition; "
            "write NAME OPERATOR VALUE, such as customer=c1 or 'total>=100'"
        )
        raise UsageError(msg)
    name, op, value = form.groups()
    try:
        return Where(name, cast("Op", op), _value(value))
    except PerdureError as error:
        msg = f"--where {text!r}: {error}"
        raise UsageError(msg) from error


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        # Text needs no quotes here, because a shell has taken them away.
        return _time_or_text(text)


def _time_or_text(text: str) -> datetime | str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    # Without a timezone it stays text: the condition would mean another time on another machine.
    if moment.tzinfo is not None:
        return moment
    return text
