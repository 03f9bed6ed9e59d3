"""What a workflow remembers by name, and what it shows: values, variables, status and search attributes.

All of it is part of `perdure.workflow`, which is where users find it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from perdure.caller import caller
from perdure.codec import TypeCodec, encode
from perdure.kernel.attributes import AttributeValue, encode_attributes
from perdure.kernel.definition import check_label

T = TypeVar("T")


def value(name: str, value: T, /) -> T:
    """Record a value under a name; in replay the recorded one is returned instead of the argument."""
    run = caller("value()")
    data = encode(value)
    recorded = run.record_value(check_label(name, "a value"), data)
    codec: TypeCodec[T] = TypeCodec(type(value) if value is not None else Any, f"value {name!r}")
    return codec.decode(recorded)


class Variable(Generic[T]):
    """A durable named variable of a run. Each `set` is recorded."""

    def __init__(self, name: str, initial: T) -> None:
        """Made by `workflow.variable`."""
        self.name = name
        self._value = value(name, initial)

    def get(self) -> T:
        """The value now."""
        return self._value

    def set(self, new: T) -> None:
        """Change it."""
        self._value = value(self.name, new)

    def update(self, change: Callable[[T], T]) -> T:
        """Replace the value by `change(value)` and return the new one."""
        self.set(change(self._value))
        return self._value


def variable(name: str, initial: T, /) -> Variable[T]:
    """A durable named variable with its first value."""
    caller("variable()")
    return Variable(name, initial)


def set_status(status: object) -> None:
    """Set the custom status that clients see (None clears it); its version goes up once per turn that changes it."""
    caller("set_status()").set_status(None if status is None else encode(status))


def status(as_type: type[T]) -> T | None:
    """The custom status as this run has set it."""
    data = caller("status()").variables.status
    codec: TypeCodec[T] = TypeCodec(as_type, "custom status")
    return None if data is None else codec.decode(data)


def set_attributes(values: Mapping[str, AttributeValue | None], /) -> None:
    """Set search attributes by which `client.list(where=...)` and `perdure ls --where` find the instance.

    They are merged: names that are not given stay as they are, None removes one. Values are text, numbers, bools,
    datetimes with a timezone, or lists of texts. They are kept by continue-as-new.

    Raises:
        DefinitionError: a name is not made of letters, digits, '_', '.', ':', '-' and '/'.
        LimitExceeded: too many, or too large (`Limits.attributes`, `Limits.attribute_bytes`).
        UsageError: a value is of another kind.
    """
    caller("set_attributes()").set_attributes(encode_attributes(values, removing=True))
