"""The arguments of a function as one payload: an array in the order of the parameters.

Defaults are included. A `msgspec.Struct` with the function's parameters as fields is made for each
definition. Its constructor, in C, binds a call as Python would. Its encoder writes the array. Its
decoder checks each argument against its annotation and fills in defaults that a shorter array
lacks. So a parameter with a default can be added at the end while old instances run on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Never, NoReturn, Optional

import msgspec

from perdure.codec.declared import check_type, hints_of
from perdure.codec.fault import explain_decode, explain_encode
from perdure.codec.nested import write_items
from perdure.codec.payload import (
    EXTENDED,
    JSON,
    MSGPACK,
    RAW,
    Misfit,
    TypeCodec,
    bad_marker,
    marked,
    natively,
    read_extended,
)
from perdure.codec.plain import SCALARS, complete, encode_msgpack, from_plain
from perdure.codec.record import Fields, look_at
from perdure.codec.shape import Stack, Unfit, Writing, fit, is_odd
from perdure.codec.text import alike
from perdure.errors import DecodeError, EncodeError, PayloadError

_MARKER = b"\x01"
_NONE: Any = inspect.Parameter.empty
_ARRAY = msgspec.msgpack.Decoder(list[msgspec.Raw])
_astuple = msgspec.structs.astuple


class Signature:
    """The parameters and the result of a function. `what` names it in errors: "activity 'charge'".

    `skip_first` leaves out `self`. Raises TypeError for `*args`, `**kwargs`, and for types that
    payloads cannot hold.
    """

    def __init__(self, fn: Callable[..., object], what: str, skip_first: bool = False) -> None:
        try:
            parameters = list(inspect.signature(fn).parameters.values())
        except ValueError as error:  # some functions in C do not tell their parameters
            raise TypeError(f"{what}: {error}; wrap it in a function with annotations") from error
        if skip_first:
            parameters = parameters[1:]
        hints = hints_of(fn, what)
        self.what = what
        self.names: tuple[str, ...] = tuple(parameter.name for parameter in parameters)
        self.parameters: tuple[TypeCodec[Any], ...] = tuple(
            _parameter(p, hints.get(p.name, Any), what) for p in parameters
        )
        result = hints.get("return", Any)
        if result in (Never, NoReturn):  # msgspec knows neither
            result = None
        self.result: TypeCodec[Any] = TypeCodec(result, f"result of {what}")

        self._call = getattr(fn, "__name__", what)
        self._python = inspect.Signature(parameters)
        self._positional = sum(p.kind is not inspect.Parameter.KEYWORD_ONLY for p in parameters)
        # An array can only lack its tail: a parameter before one that is required is always sent.
        self._required = 0
        for number, parameter in enumerate(parameters, 1):
            if parameter.default is _NONE:
                self._required = number
        self._shapes = [codec.shape for codec in self.parameters]
        self._fields = Fields(self._shapes)
        self._is_odd = any(map(is_odd, self._shapes))
        self._struct, self._python_binds = self._make_struct(parameters)
        self._decode = msgspec.msgpack.Decoder(self._struct, dec_hook=from_plain).decode
        self._decode_json = msgspec.json.Decoder(self._struct, dec_hook=from_plain).decode

    def _make_struct(self, parameters: list[inspect.Parameter]) -> tuple[Callable[..., Any], bool]:
        """The Struct, and whether binding must be left to `inspect`.

        It must where the constructor would bind differently.
        """
        odd = self._binds_differently(parameters)
        fields: list[Any] = []
        for index, (parameter, codec) in enumerate(zip(parameters, self.parameters, strict=True)):
            name = parameter.name
            if odd:
                name = f"p{index}"
            if index < self._required:
                fields.append((name, codec.shape.wire))
                continue
            default = parameter.default
            if type(default) not in SCALARS:  # msgspec refuses a mutable default
                default = msgspec.field(default_factory=_give(default))
            fields.append((name, codec.shape.wire, default))
        made = msgspec.defstruct(
            "Arguments", fields, array_like=True, forbid_unknown_fields=True, gc=False
        )
        return made, odd

    def _binds_differently(self, parameters: list[inspect.Parameter]) -> bool:
        # A field of a Struct has a name by which it can be given, and no name of two underscores.
        for parameter in parameters:
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                return True
            if parameter.name.startswith("__"):
                return True
        # A default in front of a required parameter is no default of the Struct.
        return any(p.default is not _NONE for p in parameters[: self._required])

    def encode(self, args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
        """Bind a call and encode it.

        Raises TypeError as Python does, EncodeError for an argument that does not fit.
        """
        data = self.draft(args, kwargs)
        if isinstance(data, Misfit):
            raise data.error
        return data

    def draft(self, args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
        """Bind a call of workflow code and encode it. `check` refuses it if it does not fit.

        Raises TypeError as Python does, EncodeError for an argument that is not data.
        """
        # The Struct takes keyword-only parameters by position, too, so these are counted here.
        if self._python_binds or len(args) > self._positional:
            bound = self._bind(args, kwargs)
        else:
            try:
                bound = self._struct(*args, **kwargs)
            except TypeError:
                # Bound again for Python's own words: the Struct's error names the Struct.
                bound = self._bind(args, kwargs)
        try:
            return self._write(bound)
        except EncodeError as error:
            return Misfit.of(list(_astuple(bound)), error)

    def encode_named(self, values: dict[str, object]) -> bytes:
        """Encode arguments given by name, positional-only ones too.

        Raises DecodeError when one is missing.
        """
        complete(values.values())
        bound: list[object] = []
        for parameter in self._python.parameters.values():
            if parameter.name not in values and parameter.default is _NONE:
                raise DecodeError(f"argument '{parameter.name}' of {self.what} is missing")
            bound.append(values.get(parameter.name, parameter.default))
        return self._write(self._struct(*bound))

    def _write(self, bound: Any) -> bytes:
        values = _astuple(bound)
        try:
            plan = self._fields[tuple(map(type, values))]
            if plan is not None:
                if not plan:  # scalars, by far the most frequent case
                    return _MARKER + encode_msgpack(bound)
                # msgspec comes first, so that the loop below never meets a cycle.
                body = natively(bound)
                stack: Stack = []
                if body is not None and look_at(plan, values, stack) and fit(stack):
                    return _MARKER + body
            out = Writing()
            return marked(write_items(self._shapes, values, out), out)
        except Exception as error:
            # msgspec, its hooks and properties of foreign classes may raise anything.
            self._refuse_value(values, error)

    def decode(self, data: bytes) -> tuple[tuple[object, ...], dict[str, object]]:
        """Positional and keyword-only arguments of a call.

        Raises DecodeError naming the argument.
        """
        values = _astuple(self._read(data))
        count = self._positional
        if len(values) == count:
            return values, {}
        return values[:count], dict(zip(self.names[count:], values[count:], strict=True))

    def check(self, data: bytes) -> None:
        """Raise EncodeError or DecodeError, naming the argument, when `data` does not fit."""
        if isinstance(data, Misfit):
            raise data.error
        self._read(data)

    def same(self, recorded: bytes, now: bytes) -> bool:
        """Whether both are the same call when read by this definition.

        So a parameter or a field with a default may be added while old instances run on.
        """
        if recorded == now:
            return True
        with suppress(PayloadError):
            if self._normal(recorded) == self._normal(now):
                return True
        # A declared type was changed. A call that the old one accepted stays accepted.
        return alike(recorded, now)

    def _bind(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        try:
            bound = self._python.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._call}() {error}") from None
        bound.apply_defaults()
        return self._struct(*bound.arguments.values())

    def _read(self, data: bytes) -> Any:
        try:
            if data[0] == MSGPACK:
                return self._decode(data[1:])
            if data[0] == JSON:
                return self._decode_json(data[1:])
            if data[0] == EXTENDED:
                return read_extended(self._struct, self._is_odd, data[1:])
        except Exception as error:  # as in encode
            self._refuse_data(data, error)
        if data[0] == RAW:
            raise DecodeError(
                f"arguments of {self.what}: raw bytes are not arguments; encode them as an array"
            )
        raise bad_marker(data, f"arguments of {self.what}")

    def _normal(self, data: bytes) -> bytes:
        """The same arguments as this definition would encode them."""
        bound = self._read(data)
        complete(_astuple(bound))
        return self._write(bound)

    def _refuse_value(self, values: tuple[object, ...], error: Exception) -> NoReturn:
        if isinstance(error, Unfit):
            path, why = error.path, error.why
        else:
            path, why = explain_encode(values, error)
        raise EncodeError(f"cannot encode {self._place(path)}: {why}") from error

    def _refuse_data(self, data: bytes, error: Exception) -> NoReturn:
        if not data:
            raise bad_marker(data, f"arguments of {self.what}") from None
        path, why = explain_decode(error)
        # msgspec tells an array of the wrong length by its text only.
        if not path and data[0] in {MSGPACK, EXTENDED} and "length" in why:
            count = len(_ARRAY.decode(data[1:]))
            if count < self._required:
                raise DecodeError(
                    f"argument '{self.names[count]}' of {self.what} is missing"
                ) from error
            raise DecodeError(
                f"{self.what} was given {count} arguments and takes at most {len(self.names)}; "
                "the sender knows a newer definition: deploy it here too"
            ) from error
        raise DecodeError(f"{self._place(path)}: {why}") from error

    def _place(self, path: str) -> str:
        """`[1].cents` as "argument 'card.cents' of activity 'charge'"."""
        index, bracket, rest = path.removeprefix("[").partition("]")
        if not bracket or not index.isdigit():
            return f"arguments of {self.what}"
        return f"argument '{self.names[int(index)]}{rest}' of {self.what}"


_STARRED = {
    inspect.Parameter.VAR_POSITIONAL: ("*", "list"),
    inspect.Parameter.VAR_KEYWORD: ("**", "dict"),
}


def _parameter(parameter: inspect.Parameter, type_: Any, what: str) -> TypeCodec[Any]:
    """The codec of one parameter.

    Its default must be data that fits, as it is sent with each call.
    """
    name = f"argument '{parameter.name}' of {what}"
    if parameter.kind in _STARRED:
        stars, kind = _STARRED[parameter.kind]
        raise TypeError(
            f"{what} takes '{stars}{parameter.name}', which has no fixed place; "
            f"declare a {kind} parameter"
        )
    check_type(type_, name)
    if parameter.default is None:  # `x: int = None` is common, and means an optional int
        type_ = Optional[type_]  # noqa: UP045  (`|` is not defined between every two annotations)
    codec: TypeCodec[Any] = TypeCodec(type_, name)
    if parameter.default is not _NONE:
        try:
            codec.check(codec.encode(parameter.default))
        except PayloadError as error:
            raise TypeError(
                f"{name}: its default {parameter.default!r:.60} cannot be used: {error}"
            ) from error
    return codec


def _give(value: object) -> Callable[[], object]:
    return lambda: value
