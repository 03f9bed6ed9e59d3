"""Reading plain values as pydantic models.

Pydantic is not imported here, because a model can only exist where it was imported already.
"""

from __future__ import annotations

import enum
from contextlib import suppress
from typing import Any, cast

import msgspec


def validate(cls: Any, value: object) -> object:
    """A model of decoded msgpack or JSON. Raises ValueError that names the field."""
    from pydantic import ValidationError

    try:
        return cls.model_validate(value, by_name=True)
    except ValidationError as error:
        refused = error
    with suppress(ValidationError):  # the first refusal is the one to report
        if is_json(value):
            # A strict model takes text for a UUID, or an array for a set, from JSON only.
            return cls.model_validate_json(msgspec.json.encode(value), by_name=True)
        # A strict model takes no value for an enum, and no text for a path, except from JSON, which
        # has no bytes. If it is written as the same value, then nothing was bent to fit.
        again = cls.model_validate(value, by_name=True, strict=False)
        dumped = again.model_dump(mode="python", round_trip=True, by_alias=False)
        if _is_same(dumped, value):
            return again
    first = refused.errors(include_url=False)[0]
    text = first["msg"]
    where = ".".join(map(str, first["loc"]))
    if where:
        text = f"{text} (`{where}` of {cls.__name__})"
    raise ValueError(text)


def is_json(value: object) -> bool:
    """Whether JSON can hold decoded msgpack as it is."""
    if isinstance(value, dict):
        parts = cast("dict[object, object]", value)
        return all(map(is_json, parts.values())) and all(isinstance(key, str) for key in parts)
    if isinstance(value, list):
        return all(map(is_json, cast("list[object]", value)))
    return value is None or isinstance(value, (str, int, float))


def _is_same(dumped: Any, value: Any) -> bool:
    """Whether what a model was dumped to is what it was read from."""
    if isinstance(dumped, enum.Enum):
        dumped = dumped.value
    if isinstance(dumped, dict) and isinstance(value, dict):
        items = cast("dict[object, object]", value)
        names = cast("dict[object, object]", dumped)
        keys = {_plain_key(key): item for key, item in names.items()}
        return all(key in keys and _is_same(keys[key], item) for key, item in items.items())
    if isinstance(dumped, (list, tuple)) and isinstance(value, (list, tuple)):
        one, other = cast("list[object]", dumped), cast("list[object]", value)
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(value, str) and not isinstance(dumped, (int, float)):
        return str(cast("object", dumped)) == value
    same: object = cast("object", dumped)
    return bool(same == value) and type(same) is type(value)


def _plain_key(key: object) -> object:
    if isinstance(key, enum.Enum):
        return key.value
    return key
