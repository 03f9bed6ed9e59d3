"""The formats of a payload, and the codec of one declared type.

The first byte says how to read the rest:

    0x00  raw bytes, untouched
    0x01  msgpack, the default
    0x02  JSON, for people and for other languages
    0x03  msgpack with the extension types of `extension`

Other values are kept for compression and encryption. Encoding and decoding run for each step of a
workflow. So they hold bound methods of msgspec's encoders and decoders and look at little more than
the marker. The cause of a failure is worked out afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, NoReturn, TypeVar, cast

import msgspec

from perdure.codec.annotation import OPEN
from perdure.codec.declared import check_type
from perdure.codec.extension import read_plain, read_tagged
from perdure.codec.fault import explain_decode, explain_encode
from perdure.codec.plain import check_depth, encode_msgpack, from_plain
from perdure.codec.shape import Shape, Stack, Unfit, Writing, fit, is_odd
from perdure.codec.stand_in import read_as
from perdure.errors import DecodeError, EncodeError

RAW, MSGPACK, JSON, EXTENDED = 0, 1, 2, 3
_RAW, _MSGPACK, _EXTENDED = b"\x00", b"\x01", b"\x03"
_BYTES = (bytes, bytearray, memoryview)

T = TypeVar("T")


def encode(value: object) -> bytes:
    """A payload of any value: raw for bytes, else msgpack. Its reader gives the type.

    Raises EncodeError with the path of the part that is not data.
    """
    given = value
    try:
        if isinstance(value, _BYTES):
            return _RAW + bytes(cast("bytes", value))
        if OPEN.checks[type(value)] is True:  # most values are scalars
            return _MSGPACK + encode_msgpack(value)
        return payload_of(OPEN, value)
    except Exception as error:
        # msgspec, its hooks and properties of foreign classes may raise anything.
        raise encode_error("value", given, error) from error


def decode(data: bytes, as_type: object = Any) -> Any:
    """The value of a payload, checked against `as_type`. Without a type it is plain data.

    Raises DecodeError.
    """
    if as_type is Any:
        return _UNTYPED.decode(data)
    codec: TypeCodec[Any]
    try:
        codec = _codec_of(as_type)
    except TypeError:
        # The metadata of an Annotated type need not be hashable, so that the cache cannot have it.
        # A type that payloads cannot hold raises again here.
        codec = TypeCodec(as_type, "value")
    return codec.decode(data)


def digest(data: bytes) -> str:
    """16 hex digits that identify a payload."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def bad_marker(data: bytes, what: str) -> DecodeError:
    """The error for a payload whose first byte is unknown here."""
    if not data:
        return DecodeError(
            f"{what}: the payload is empty, without even a format marker; "
            "it was not written by `encode`"
        )
    return DecodeError(
        f"{what}: unknown format marker 0x{data[0]:02x} (known: 0x00 raw, 0x01 msgpack, 0x02 JSON, "
        "0x03 extended msgpack); it was written by a newer version or with a payload codec that is "
        "missing here: upgrade this process or configure the codec"
    )


def encode_error(what: str, value: object, error: Exception) -> EncodeError:
    """The error for a value that did not encode, with the path inside it."""
    if isinstance(error, Unfit):
        return EncodeError(f"cannot encode {what}{_at(error.path)}: {error.why}")
    path, why = explain_encode(value, error)
    return EncodeError(f"cannot encode {what}{_at(path)}: {why}")


def payload_of(shape: Shape, value: object) -> bytes:
    """A payload in msgpack. Raises Unfit, and whatever msgspec or a hook raises."""
    check = shape.checks[type(value)]
    if check is not False:
        # msgspec comes first, so that the loop below never meets a cycle.
        body = natively(value)
        stack: Stack = []
        if body is not None and (check is True or (check.one(value, stack) and fit(stack))):
            return _MSGPACK + body
    out = Writing()
    return marked(shape.write(value, out), out)


def natively(value: object) -> bytes | None:
    """The msgpack of a value as msgspec encodes it. None for one that has to be written first."""
    try:
        body = encode_msgpack(value)
    except RecursionError:
        raise
    except Exception:
        # Such as a datetime outside the years of UTC. `Shape.write` refuses what is no data.
        return None
    check_depth(body)
    return body


def read_extended(type_: Any, odd: bool, body: bytes) -> Any:
    """Extended msgpack as a type. `odd` tells that stand-ins are in it, which know the names of
    alternatives.
    """
    if odd:
        return read_as(type_, read_tagged(body))
    return read_as(type_, read_plain(body))


def marked(written: object, out: Writing) -> bytes:
    """A payload of what a shape has written."""
    body = encode_msgpack(written)
    check_depth(body)
    if out.extended:
        return _EXTENDED + body
    return _MSGPACK + body


def _at(path: str) -> str:
    if path:
        return f" at '{path.lstrip('.')}'"
    return ""


class Misfit(bytes):
    """A payload of a value that does not fit its declared type. `check` raises its error.

    Workflow code may catch the refusal of a command, and the declared type may be another one by
    the time of a replay. So the refusal has to be recorded, like that of a limit. The bytes tell
    the value alone, and are never stored.
    """

    error: EncodeError

    @classmethod
    def of(cls, value: object, error: EncodeError) -> Misfit:
        """The payload of a value that was refused with this error.

        Raises that error where the value alone is the reason.
        """
        if not isinstance(error.__cause__, Unfit):
            raise error
        try:
            made = cls(encode(value))
        except EncodeError:
            raise error from None
        made.error = error
        return made


class TypeCodec(Generic[T]):
    """Values of one declared type. `what` names them in errors: "result of activity 'charge'".

    Raises TypeError for a type that payloads cannot hold. Decoding is strict: text is never taken
    for a number.
    """

    __slots__ = ("_checks", "_decode", "_raw", "shape", "type", "what")

    def __init__(self, type_: type[T] | Any, what: str) -> None:
        declared = check_type(type_, what)
        self.type: Any = type_
        self.what = what
        self.shape = declared.shape
        self._checks = declared.shape.checks
        self._raw = any(type_ is raw for raw in (Any, object, *_BYTES))
        self._decode: Callable[[bytes], T] = declared.decode

    def encode(self, value: T) -> bytes:
        """A payload of `value`. Raises EncodeError with the path of the part that is not data."""
        try:
            if self._raw and isinstance(value, _BYTES):
                return _RAW + bytes(cast("bytes", value))
            if self._checks[type(value)] is True:  # as above
                return _MSGPACK + encode_msgpack(value)
            return payload_of(self.shape, value)
        except Exception as error:
            # msgspec, its hooks and properties of foreign classes may raise anything.
            raise encode_error(self.what, cast("object", value), error) from error

    def draft(self, value: T) -> bytes:
        """A payload for a command of workflow code. `check` refuses it if it does not fit.

        Raises EncodeError for a value that is not data.
        """
        try:
            return self.encode(value)
        except EncodeError as error:
            return Misfit.of(value, error)

    def check(self, data: bytes) -> None:
        """Raise EncodeError or DecodeError when `data` does not fit the type."""
        if isinstance(data, Misfit):
            raise data.error
        self.decode(data)

    def decode(self, data: bytes) -> T:
        """The value of a payload.

        Raises DecodeError, naming `what` and the path, when it does not fit the type.
        """
        try:
            if data[0] == MSGPACK:
                return self._decode(data[1:])
            return self._decode_other(data)
        except DecodeError:
            raise
        except Exception as error:  # as above
            self._refuse(data, error)

    def _decode_other(self, data: bytes) -> T:
        if data[0] == RAW:
            body = data[1:]
            if self.type is Any:
                return cast("T", body)
            return cast("T", read_as(self.shape.wire, body))
        if data[0] == JSON:
            wire = self.shape.wire
            return cast("T", msgspec.json.decode(data[1:], type=wire, dec_hook=from_plain))
        if data[0] == EXTENDED:
            return cast("T", read_extended(self.shape.wire, is_odd(self.shape), data[1:]))
        raise bad_marker(data, self.what)

    def _refuse(self, data: bytes, error: Exception) -> NoReturn:
        if not data:
            raise bad_marker(data, self.what) from None
        path, why = explain_decode(error)
        raise DecodeError(f"{self.what}{_at(path)}: {why}") from error


@lru_cache(maxsize=512)
def _codec_of(type_: object) -> TypeCodec[Any]:
    return TypeCodec(type_, "value")


_UNTYPED: TypeCodec[Any] = TypeCodec(Any, "value")
