"""The first field in which a command of the code differs from the one in its journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from perdure.codec import to_json
from perdure.errors import DecodeError

if TYPE_CHECKING:
    from perdure.kernel.data import events as ev

_MISSING = object()
_SHOWN_CHARACTERS = 60
_PAYLOADS = ("input", "value")


class Difference(NamedTuple):
    """A field with its two values, in words."""

    field: str
    journal: str
    code: str

    def __str__(self) -> str:
        return f"{self.field} is {self.journal} in the journal and {self.code} in the code"


def difference(recorded: ev.Event, given: ev.Event) -> Difference | None:
    """The first field that differs. None: they are of different kinds, or equal."""
    if type(recorded) is not type(given):
        return None
    for name in given.__struct_fields__:
        was: object = getattr(recorded, name)
        now: object = getattr(given, name)
        if was == now:
            continue
        field = name
        if name in _PAYLOADS and isinstance(was, bytes) and isinstance(now, bytes):
            try:
                field, was, now = _first(name, to_json(was), to_json(now))
            except DecodeError:  # a format that is unknown here
                return None
        return Difference(field, _shown(was), _shown(now))
    return None


def _first(path: str, was: object, now: object) -> tuple[str, object, object]:
    """The first part of two plain values that differs, by its path."""
    whole: tuple[str, object, object] = (path, was, now)
    if isinstance(was, dict) and isinstance(now, dict):
        old, new = cast("dict[str, object]", was), cast("dict[str, object]", now)
        for key in old | new:
            pair = old.get(key, _MISSING), new.get(key, _MISSING)
            if pair[0] != pair[1]:
                return _first(f"{path}.{key}", *pair)
    if isinstance(was, list) and isinstance(now, list):
        olds, news = cast("list[object]", was), cast("list[object]", now)
        for index in range(max(len(olds), len(news))):
            pair = _at(olds, index), _at(news, index)
            if pair[0] != pair[1]:
                return _first(f"{path}[{index}]", *pair)
    return whole


def _at(values: list[object], index: int) -> object:
    if index < len(values):
        return values[index]
    return _MISSING


def _shown(value: object) -> str:
    if value is _MISSING:
        return "not there"
    if isinstance(value, list):
        return f"a list of {len(cast('list[object]', value))}"
    if isinstance(value, dict):
        return f"an object of {len(cast('dict[str, object]', value))} fields"
    text = repr(value)
    # A text may be large. Its beginning shows a clock or an id.
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}..."
    return text
