"""Random values of random declared types arrive as what they were, by type and by value."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import itertools
import math
import pathlib
import uuid
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from perdure.codec import DecodeError, EncodeError, Signature, TypeCodec, decode, encode, to_json

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 3


class Size(enum.StrEnum):
    SMALL = "s"
    LARGE = "l"


class UserId(str):
    __slots__ = ()


class Cents(Decimal): ...


@dataclasses.dataclass
class Box(Generic[T]):
    inner: T


class Crate(msgspec.Struct, Generic[T]):
    inner: T
    more: list[T] = []


Sku = NewType("Sku", str)
ZONES = st.sampled_from([ZoneInfo("Europe/Berlin"), ZoneInfo("America/St_Johns"), ZoneInfo("UTC")])
OFFSETS = st.integers(-80_000, 80_000).map(lambda s: dt.timezone(dt.timedelta(seconds=s)))
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
MOMENTS = (
    st.datetimes()
    | st.datetimes(timezones=st.just(dt.UTC))
    | st.datetimes(timezones=ZONES, allow_imaginary=True)
    | st.datetimes(timezones=OFFSETS)
)
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**63), 2**64 - 1)),
    (str, TEXT),
    (bool, st.booleans()),
    (float, st.floats()),
    (bytes, st.binary(max_size=8)),
    (Decimal, st.decimals()),
    (uuid.UUID, st.uuids()),
    (dt.datetime, MOMENTS),
    (dt.date, st.dates()),
    (dt.time, st.times() | st.times(timezones=OFFSETS | ZONES)),
    (dt.timedelta, st.timedeltas()),
    (pathlib.Path, TEXT.map(pathlib.Path)),
    (ipaddress.IPv4Address, st.ip_addresses(v=4)),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Size, st.sampled_from(Size)),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (UserId, TEXT.map(UserId)),
    (Cents, st.decimals(allow_nan=False, allow_infinity=False).map(Cents)),
    (Sku, TEXT),
    (Annotated[int, pydantic.Field(ge=0)], st.integers(0, 100)),
    (Annotated[Decimal, msgspec.Meta(description="a price")], st.decimals(0, 100)),
    (Any, st.none() | st.integers(-5, 5) | st.lists(st.decimals(allow_nan=False), max_size=2)),
]
# Neither nan nor numbers of several types: a set keeps one of 1, 1.0 and True.
KEYS = [leaf for leaf in LEAVES if leaf[0] in (str, uuid.UUID, dt.date, Color, bytes)]
Typed = tuple[Any, st.SearchStrategy[Any]]
_numbers = itertools.count()


def _name(kind: str) -> str:
    return f"{kind}{next(_numbers)}"  # alternatives of a union need names of their own


def _lists(part: Typed) -> st.SearchStrategy[Typed]:
    type_, values = part
    return st.sampled_from(
        [
            (list[type_], st.lists(values, max_size=6)),
            (tuple[type_, ...], st.lists(values, max_size=3).map(tuple)),
            (tuple[type_, int], st.tuples(values, st.integers(0, 9))),
            (type_ | None if type_ is not Any else Any, st.none() | values),
            (Box[type_], st.builds(Box, values)),
            (Crate[type_], st.builds(Crate, values, st.lists(values, max_size=2))),
        ]
    )


def _keyed(key: Typed, part: Typed) -> st.SearchStrategy[Typed]:
    return st.sampled_from(
        [
            (dict[key[0], part[0]], st.dictionaries(key[1], part[1], max_size=3)),
            (set[key[0]], st.sets(key[1], max_size=4)),
            (frozenset[key[0]], st.frozensets(key[1], max_size=4)),
        ]
    )


def _class(kind: str, parts: list[Typed]) -> Typed:
    names = [f"f{index}" for index in range(len(parts))]
    fields: dict[str, Any] = {name: part[0] for name, part in zip(names, parts, strict=True)}
    values = {name: part[1] for name, part in zip(names, parts, strict=True)}
    made: Any
    if kind == "Data":
        made = dataclasses.make_dataclass(_name(kind), list(fields.items()))
    elif kind == "Frozen":
        made = dataclasses.make_dataclass(
            _name(kind), list(fields.items()), frozen=True, slots=True
        )
    elif kind == "Struct":
        made = msgspec.defstruct(_name(kind), list(fields.items()))
    elif kind == "Array":
        made = msgspec.defstruct(
            _name(kind), list(fields.items()), array_like=True, frozen=True, rename="camel"
        )
    elif kind == "Attrs":
        made = attrs.make_class(_name(kind), {n: attrs.field(type=t) for n, t in fields.items()})
    elif kind == "Named":
        made = NamedTuple(_name(kind), list(fields.items()))
    elif kind == "Typed":
        made = TypedDict(_name(kind), fields)
        return made, st.fixed_dictionaries(values)
    else:
        config = pydantic.ConfigDict(strict=kind == "Strict", arbitrary_types_allowed=True)
        made = pydantic.create_model(_name(kind), __config__=config, **fields)
        return made, st.builds(_model(made), **values)
    return made, st.builds(made, **values)


def _model(cls: Any) -> Callable[..., Any]:
    def build(**values: Any) -> Any:
        # A model bends some values while it is made. What it is then has to arrive.
        try:
            return cls(**values)
        except pydantic.ValidationError:
            reject()

    return build


KINDS = ["Data", "Frozen", "Struct", "Array", "Attrs", "Named", "Typed"]


def _compound(kinds: list[str], parts: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return (
        parts.flatmap(_lists)
        | st.tuples(st.sampled_from(KEYS), parts).flatmap(lambda two: _keyed(*two))
        | st.builds(_class, st.sampled_from(kinds), st.lists(parts, min_size=1, max_size=3))
    )


def _union(parts: list[Typed]) -> Typed:
    type_: Any = parts[0][0]
    for part, _ in parts[1:]:
        type_ = type_ | part
    return type_, st.one_of([values for _, values in parts])


def types_of(kinds: list[str]) -> st.SearchStrategy[Typed]:
    leaves = st.sampled_from(LEAVES)
    several = st.lists(
        st.sampled_from(LEAVES[:17]), min_size=2, max_size=3, unique_by=lambda leaf: str(leaf[0])
    )
    flat = leaves | several.map(_union)
    one = flat | _compound(kinds, flat)
    classes = st.lists(
        st.builds(_class, st.sampled_from(kinds), st.lists(one, min_size=1, max_size=2)),
        min_size=2,
        max_size=3,
    )
    return one | _compound(kinds, one) | classes.map(_union)


def same(value: Any, other: Any) -> bool:
    """Whether two values are the same by type and value, to the last part."""
    if type(value) is not type(other):
        return False
    if isinstance(value, float) and math.isnan(value):
        return math.isnan(other)
    if isinstance(value, (dt.datetime, dt.time)):
        zone, other_zone = value.tzinfo, other.tzinfo
        if isinstance(zone, ZoneInfo) or isinstance(other_zone, ZoneInfo):
            return repr(value) == repr(other)
        # The fold says nothing beside a fixed offset.
        folds_are_same = zone is not None or value.fold == other.fold
        return value.isoformat() == other.isoformat() and folds_are_same
    if isinstance(value, Decimal):
        return str(value) == str(other)
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(map(same, value, other))
    if isinstance(value, dict):
        return same(list(value.items()), list(other.items()))
    if isinstance(value, (set, frozenset)):
        return len(value) == len(other) and same(sorted(value, key=repr), sorted(other, key=repr))
    if isinstance(value, (str, int, float, bytes, enum.Enum)):
        return bool(value == other)
    names: Any = getattr(type(value), "__struct_fields__", None)
    if names is None and isinstance(value, pydantic.BaseModel):
        names = type(value).model_fields
    if names is None and dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    if names is None and attrs.has(type(value)):
        names = [field.name for field in attrs.fields(type(value))]
    if names is None:
        return bool(value == other)
    return all(same(getattr(value, name), getattr(other, name)) for name in names)


def ways(type_: Any, value: Any) -> list[tuple[str, Any]]:
    """A value after each way through the codec."""
    codec = TypeCodec(type_, "value")
    data = codec.encode(value)
    assert codec.encode(value) == data
    to_json(data)

    def fn(a: int, b: Any) -> None: ...

    fn.__annotations__ = {"a": int, "b": type_, "return": None}
    signature = Signature(fn, "fn")
    (_, argument), _ = signature.decode(signature.encode((1, value), {}))
    found = [("declared", codec.decode(data)), ("argument", argument)]
    # The sender does not tell which of two classes with the same fields it is.
    with suppress(DecodeError):
        (_, by_name), _ = signature.decode(encode([1, value]))
        found += [("untyped", decode(encode(value), type_)), ("untyped argument", by_name)]
    return found


def has_untyped(type_: Any) -> bool:
    return "typing.Any" in str(type_)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_value_of_a_declared_type_arrives_as_it_was(data: st.DataObject) -> None:
    type_, values = data.draw(types_of(KINDS))
    value = data.draw(values)
    for way, found in ways(type_, value):
        assert same(value, found), (way, type_, value, found)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_pydantic_model_arrives_as_it_was_or_is_refused(data: st.DataObject) -> None:
    type_, values = data.draw(types_of([*KINDS, "Model", "Strict", "Model", "Strict"]))
    value = data.draw(values)
    try:
        found = ways(type_, value)
    except EncodeError:
        return  # a union of a model may take the value for another of its types
    for way, one in found:
        assert same(value, one), (way, type_, value, one)
