"""Shapes of pydantic models."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, cast

from msgspec.msgpack import Ext

from perdure.codec import extension
from perdure.codec.compare import difference
from perdure.codec.extension import read_plain
from perdure.codec.nested import Anything, write_items
from perdure.codec.plain import encode_msgpack
from perdure.codec.shape import Check, Shape, Unfit, Writing, show
from perdure.codec.validation import validate


def _no_record(cls: type[Any]) -> None:  # noqa: ARG001  # pydantic has made dicts of them
    return None


class Dumped(Anything):
    """The dump of a model: dicts, lists and scalars.

    The model gives types to enums and texts when it is read.
    """

    def __init__(self) -> None:
        super().__init__(Any, _no_record, reader_knows=False)

    def _write_object(self, value: Any, out: Writing) -> Any:
        if isinstance(value, enum.Enum):
            return self.write(value.value, out)
        if isinstance(value, tuple):
            parts = cast("tuple[object, ...]", value)
            written = write_items([self] * len(parts), parts, out)
            return out.note(Ext(extension.TUPLE, encode_msgpack(written)))
        return value


_DUMPED = Dumped()


class Model(Shape):
    """The objects of one pydantic model.

    Serializers, validators and unions of a model may turn a value into another one. So what is
    written is read again, and compared.
    """

    def _check(self, cls: type[Any]) -> Check:
        return False

    def _write(self, value: Any, out: Writing) -> Any:
        if type(value) is not self.declared:
            raise self._another(value)
        # Python mode, because JSON mode would mask secrets and break bytes. Names of fields and not
        # aliases, because both sides are ours.
        dumped = value.model_dump(mode="python", round_trip=True, by_alias=False, warnings="error")
        written = _DUMPED.write(dumped, out)
        self._prove(value, written)
        return written

    def _another(self, value: object) -> Unfit:
        cls = type(value)
        if not issubclass(cls, self.declared):
            return self.unfit(value)
        return Unfit(
            f"{show(cls)} would arrive as {show(self.declared)}, without what it adds; "
            f"declare {show(self.declared)} | {show(cls)}"
        )

    def _prove(self, value: Any, written: object) -> None:
        plain = read_plain(encode_msgpack(written))
        try:
            again = validate(self.declared, plain)
        except ValueError as error:
            raise Unfit(f"{show(self.declared)} would not be read again: {error}") from error
        found = difference(value, again)
        if found is None:
            return
        path, why = found
        if self._is_excluded(path):
            why = (
                "it is excluded (exclude=True), so that it would be lost; "
                "leave it at its default, or pass it beside the model"
            )
        raise Unfit(why).inside(path)

    def _is_excluded(self, path: str) -> bool:
        """Whether a path leads to a field with `exclude=True`."""
        fields: Iterable[tuple[str, Any]] = self.declared.model_fields.items()
        return any(field.exclude and path == f".{name}" for name, field in fields)
