"""Payloads for people: as JSON on a screen, and from JSON that was typed."""

from __future__ import annotations

import base64
import datetime as dt
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from perdure.codec.annotation import OPEN
from perdure.codec.extension import read_plain
from perdure.codec.fault import explain_decode
from perdure.codec.payload import EXTENDED, JSON, MSGPACK, bad_marker, encode_error, payload_of
from perdure.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    from perdure.codec.signature import Signature


def to_json(data: bytes) -> object:
    """A readable view of a payload, made only of values that JSON knows.

    Bytes become {"base64": ...}. Keys, nan and infinities become text. A damaged body becomes
    {"undecodable": why, "base64": ...}. Raises DecodeError only when the format marker is unknown.
    """
    if data[:1] not in {b"\x00", b"\x01", b"\x02", b"\x03"}:
        raise bad_marker(data, "payload")
    body = data[1:]
    try:
        if data[0] in {MSGPACK, EXTENDED}:
            return _view(read_plain(body))
        if data[0] == JSON:
            return _view(msgspec.json.decode(body))
        return _view(body)
    except Exception as error:  # damage must not keep the bytes from being seen
        return {"undecodable": explain_decode(error)[1], "base64": base64.b64encode(body).decode()}


def alike(data: bytes, other: bytes) -> bool:
    """Whether two payloads look the same, whatever types they were written with."""
    try:
        return to_json(data) == to_json(other)
    except DecodeError:  # a format that is unknown here
        return data == other


def encode_json(value: object) -> bytes:
    """A payload in JSON.

    Raises EncodeError, also for nan and infinities, which JSON cannot express.
    """
    try:
        # By way of msgpack, so that hooks and the order of sets are the same in both formats.
        plain = read_plain(payload_of(OPEN, value)[1:])
        body = msgspec.json.encode(plain)
    except Exception as error:
        # msgspec, its hooks and properties of foreign classes may raise anything.
        raise encode_error("value", value, error) from error
    # msgspec writes nan and infinities as null, without an error.
    if b"null" in body and not _finite(plain):
        raise EncodeError(
            "cannot encode value as JSON: it holds nan or an infinity; "
            "use msgpack, or pass None or text"
        )
    return bytes([JSON]) + body


def from_json(text: str, signature: Signature) -> bytes:
    """Arguments from JSON.

    They are an array by position, an object by parameter name, or the value of the only parameter.
    Raises DecodeError naming the argument that is missing, unknown or of the wrong type.
    """
    try:
        value = msgspec.json.decode(text)
        whole = msgspec.Raw(text.encode())
        raw: Any = whole
        if isinstance(value, (list, dict)):
            raw = msgspec.json.decode(text, type=_Raws)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        remedy = """text needs double quotes, as in '["card", 1]'"""
        raise DecodeError(
            f"arguments of {signature.what}: this is no JSON: {error}; {remedy}"
        ) from error
    try:
        return _arguments(_named(raw, signature), signature)
    except DecodeError as refused:
        if len(signature.names) != 1:
            raise
        # With one parameter, `[1, 2]` may be the list and `{"card": ...}` the object itself.
        try:
            return _arguments({signature.names[0]: whole}, signature)
        except DecodeError as error:
            # The first reading is the likely one where the JSON had exactly one argument.
            if isinstance(raw, list) and len(cast("list[object]", raw)) == 1:
                raise refused from None
            if isinstance(raw, dict) and list(cast("dict[str, object]", raw)) == [*signature.names]:
                raise refused from None
            raise error from None


_Raws = list[msgspec.Raw] | dict[str, msgspec.Raw]


def _named(raw: Any, signature: Signature) -> dict[str, msgspec.Raw]:
    names = signature.names
    if isinstance(raw, msgspec.Raw):
        raw = [raw]
    if isinstance(raw, list):
        values = cast("list[msgspec.Raw]", raw)
        if len(values) > len(names):
            raise DecodeError(
                f"{signature.what} takes {_count(names)}, and {len(values)} were given"
            )
        return dict(zip(names, values, strict=False))
    for name in raw:
        if name not in names:
            raise DecodeError(
                f"{signature.what} has no argument '{name}'; it takes {_count(names)}"
            )
    return cast("dict[str, msgspec.Raw]", raw)


def _count(names: tuple[str, ...]) -> str:
    if names:
        return f"{len(names)} ({', '.join(names)})"
    return "no arguments"


def _arguments(raws: dict[str, msgspec.Raw], signature: Signature) -> bytes:
    values: dict[str, object] = {}
    for name, codec in zip(signature.names, signature.parameters, strict=True):
        if name in raws:
            values[name] = codec.decode(bytes([JSON]) + bytes(raws[name]))
    return signature.encode_named(values)


def _view(value: object) -> object:
    if isinstance(value, dict):
        return {_key(key): _view(item) for key, item in cast("dict[object, object]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_view(item) for item in cast("list[object]", value)]
    if isinstance(value, (set, frozenset)):
        # The order of a set differs from process to process.
        return sorted(map(_view, cast("set[object]", value)), key=msgspec.json.encode)
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (dt.datetime, dt.time)):
        return _view_of_time(value)
    if isinstance(value, (Decimal, UUID, dt.date, dt.timedelta)):
        return msgspec.to_builtins(value)
    if isinstance(value, msgspec.msgpack.Ext):
        return {"ext": value.code, "base64": base64.b64encode(value.data).decode()}
    return value


def _view_of_time(value: dt.datetime | dt.time) -> str:
    zone = ""
    if isinstance(value.tzinfo, ZoneInfo):
        zone = f"[{value.tzinfo.key}]"
    return value.isoformat() + zone


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    view = _view(key)
    if isinstance(view, str):
        return view
    return msgspec.json.encode(view).decode()


def _finite(value: object) -> bool:
    if isinstance(value, dict):
        parts = cast("dict[object, object]", value)
        return all(map(_finite, parts)) and all(map(_finite, parts.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_finite, cast("list[object]", value)))
    if isinstance(value, float):
        return math.isfinite(value)
    return True
