"""Values, variables, status and search attributes of a workflow.

All of it is part of `perdure.workflow`, where users find it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Generic, TypeVar

from perdure.codec import TypeCodec, encode
from perdure.codec.derived import difference, type_of
from perdure.errors import UsageError
from perdure.kernel.data.attributes import AttributeValue, encode_attributes
from perdure.kernel.data.definition import check_label
from perdure.kernel.execution import changes
from perdure.workflow.caller import caller

T = TypeVar("T")


def value(name: str, value: T, /, *, type: type[T] | None = None) -> T:
    """Record a value under a name. In replay the recorded one is returned instead of the argument.

    The recorded value is read as `type`. Without it the argument tells the type. Give it where the
    parts of a list or dict are of several types, and where the argument may differ in replay.

    Raises:
        UsageError: the value does not tell its type, and there is no `type=`.
        PayloadError: it is not data, does not fit `type`, or is too large.
    """
    recorded: T = _record("value", name, value, type)
    return recorded


def _record(verb: str, name: str, value: Any, declared: Any) -> Any:
    run = caller(f"{verb}()")
    what = f"{verb} {check_label(name, f'a {verb}')!r}"
    if declared is not None:
        codec = _codec(declared, what)
        data = codec.draft(value)
    else:
        codec = _codec_of(value, what)
        data = encode(value)

    def check() -> None:
        # A type that was told from the value has to be proven.
        if declared is not None:
            codec.check(data)
            return
        again = codec.decode(data)
        differs = difference(value, again)
        if differs is not None:
            msg = (
                f"{what} does not tell its type: {differs}; give the type, "
                f"such as workflow.{verb}({name!r}, ..., type=list[Item])"
            )
            raise UsageError(msg)

    return codec.decode(changes.record_value(run, name, data, check))


def _codec_of(value: object, what: str) -> TypeCodec[Any]:
    try:
        return _codec(type_of(value), what)
    except TypeError:
        # It cannot be read as its own type. It is recorded as plain data, or the check refuses it.
        return _codec(Any, what)


def _codec(type_: Any, what: str) -> TypeCodec[Any]:
    try:
        return _cached_codec(type_, what)
    except TypeError:
        # The metadata of an Annotated type need not be hashable, so that the cache cannot have it.
        # A type that cannot be read raises again here.
        return TypeCodec(type_, what)


@lru_cache(maxsize=512)
def _cached_codec(type_: Any, what: str) -> TypeCodec[Any]:
    return TypeCodec(type_, what)


class Variable(Generic[T]):
    """A durable named variable of a run. Each `set` is recorded."""

    def __init__(self, name: str, initial: T, type: type[T] | None = None) -> None:
        """Made by `workflow.variable`."""
        self.name = name
        self._type = type
        self._value: T = _record("variable", name, initial, type)

    def get(self) -> T:
        """The value now."""
        return self._value

    def set(self, new: T) -> None:
        """Change it."""
        self._value = _record("variable", self.name, new, self._type)

    def update(self, change: Callable[[T], T]) -> T:
        """Replace the value by `change(value)` and return the new one."""
        self.set(change(self._value))
        return self._value


def variable(name: str, initial: T, /, *, type: type[T] | None = None) -> Variable[T]:
    """A durable named variable with its first value. `type` as in `value`.

    Raises:
        UsageError: a value does not tell its type, and there is no `type=`.
        PayloadError: it is not data, does not fit `type`, or is too large.
    """
    caller("variable()")
    return Variable(name, initial, type)


def set_status(status: object) -> None:
    """Set the custom status that clients see. None clears it.

    Its version goes up once per turn that changes it.
    """
    run = caller("set_status()")
    data = None
    if status is not None:
        data = encode(status)
    changes.set_status(run, data)


def status(as_type: type[T]) -> T | None:
    """The custom status as this run has set it."""
    data = caller("status()").variables.status
    codec: TypeCodec[T] = TypeCodec(as_type, "custom status")
    if data is None:
        return None
    return codec.decode(data)


def set_attributes(values: Mapping[str, AttributeValue | None], /) -> None:
    """Set search attributes by which `client.list(where=...)` and `perdure ls --where` find the
    instance.

    They are merged: names that are not given stay as they are, and None removes one. Values are
    text, numbers, bools, datetimes with a timezone, or lists of texts. They are kept by
    continue-as-new.

    Raises:
        DefinitionError: a name is not made of letters, digits, '_', '.', ':', '-' and '/'.
        LimitExceeded: too many, or too large (`Limits.attributes`, `Limits.attribute_bytes`).
        UsageError: a value is of another kind.
    """
    run = caller("set_attributes()")
    changes.set_attributes(run, encode_attributes(values, removing=True))
