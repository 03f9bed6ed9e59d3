"""What arrives equals what was sent, or the sender is told which part would not."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import pathlib
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Generic, Literal, TypedDict, TypeVar
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest

from perdure.codec import DecodeError, EncodeError, TypeCodec, decode, encode

T = TypeVar("T")
BERLIN = ZoneInfo("Europe/Berlin")
HOUR = dt.timezone(dt.timedelta(hours=1))


def through(type_: Any, value: Any) -> Any:
    codec = TypeCodec(type_, "value")
    return codec.decode(codec.encode(value))


# ------------------------------------------------------------------------------ zones


@dataclasses.dataclass
class Slot:
    at: dt.datetime


class Booking(pydantic.BaseModel):
    at: dt.datetime
    others: list[dt.datetime] = []


MOMENTS = [
    dt.datetime(2026, 3, 29, 0, 30, tzinfo=BERLIN),
    dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
    dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    dt.datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN),  # a time that no clock shows
    dt.datetime(2026, 3, 29, 0, 30, tzinfo=HOUR),
    dt.datetime(1890, 1, 1, tzinfo=dt.timezone(dt.timedelta(minutes=53, seconds=28))),
    dt.datetime(2026, 3, 29, 0, 30, tzinfo=dt.UTC),
    dt.datetime(2026, 3, 29, 0, 30, tzinfo=ZoneInfo("UTC")),
    dt.datetime(2026, 3, 29, 0, 30),
    dt.datetime(2026, 10, 25, 2, 30, fold=1),
    dt.datetime.min.replace(tzinfo=HOUR),
]


@pytest.mark.parametrize("at", MOMENTS, ids=repr)
def test_a_datetime_keeps_its_zone(at: dt.datetime) -> None:
    found = [
        through(dt.datetime, at),
        through(Any, [at])[0],
        through(dict[str, dt.datetime], {"a": at})["a"],
        *through(dict[dt.datetime, int], {at: 1}),
        *through(dict[Any, int], {at: 1}),
        through(Slot, Slot(at)).at,
        through(Booking, Booking(at=at)).at,
        through(dt.datetime | str, at),
        decode(encode(at), dt.datetime),
        decode(encode({"at": at}), Slot).at,
    ]
    assert [repr(one) for one in found] == [repr(at)] * len(found)


def test_a_time_tomorrow_is_the_same_time_on_the_clock() -> None:
    at = through(dt.datetime, dt.datetime(2026, 3, 28, 9, tzinfo=BERLIN))
    assert (at + dt.timedelta(days=1)).isoformat() == "2026-03-29T09:00:00+02:00"


@pytest.mark.parametrize("zone", [BERLIN, HOUR, dt.UTC, None], ids=str)
def test_a_time_of_day_keeps_its_zone(zone: dt.tzinfo | None) -> None:
    at = dt.time(2, 30, tzinfo=zone, fold=1)
    assert repr(through(dt.time, at)) in {repr(at), repr(at.replace(fold=0))}
    assert through(Any, at).tzinfo == zone


class Moving(dt.tzinfo):
    """As the zones of pytz: no name that the standard library knows, and no fixed offset."""

    def utcoffset(self, at: dt.datetime | None) -> dt.timedelta | None:
        return None if at is None else dt.timedelta(hours=1)

    def dst(self, at: dt.datetime | None) -> dt.timedelta | None:
        return None

    def tzname(self, at: dt.datetime | None) -> str | None:
        return "X"


class Fixed(Moving):
    def utcoffset(self, at: dt.datetime | None) -> dt.timedelta | None:
        return dt.timedelta(hours=1)


def test_zones_of_other_libraries_become_offsets_or_are_refused() -> None:
    found = through(Slot, Slot(dt.datetime(2026, 1, 1, tzinfo=Fixed())))
    assert found.at.isoformat() == "2026-01-01T00:00:00+01:00"
    with pytest.raises(EncodeError, match=r"at 'at': its timezone is a .*Moving.*ZoneInfo"):
        through(Slot, Slot(dt.datetime(2026, 1, 1, tzinfo=Moving())))


def test_a_zone_that_is_missing_here_is_named() -> None:
    data = encode(dt.datetime(2026, 1, 1, tzinfo=BERLIN)).replace(b"Berlin", b"Atlant")
    with pytest.raises(DecodeError, match="Europe/Atlant"):
        decode(data, dt.datetime)


# ------------------------------------------------------------------------------ subclasses


class FakeDatetime(dt.datetime): ...


class FakeDate(dt.date): ...


class Duration(dt.timedelta): ...


class Money(Decimal): ...


class Name(str):
    __slots__ = ()


class Shown(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


EXTENDED: list[tuple[Any, Any]] = [
    (FakeDatetime(2026, 1, 1, tzinfo=BERLIN), dt.datetime(2026, 1, 1, tzinfo=BERLIN)),
    (FakeDate(2026, 1, 1), dt.date(2026, 1, 1)),
    (Duration(hours=2), dt.timedelta(hours=2)),
    (Money("1.10"), Decimal("1.10")),
    (Name("x"), "x"),
    (Shown("x"), "x"),
]


@pytest.mark.parametrize(("value", "base"), EXTENDED, ids=repr)
def test_a_subclass_travels_as_what_it_extends(value: Any, base: Any) -> None:
    kind = type(base)
    for found in (
        through(kind, value),
        through(Any, value),
        through(list[kind], [value])[0],
        through(kind | None, value),
        decode(encode(value), kind),
    ):
        assert (type(found), repr(found)) == (kind, repr(base))


@pytest.mark.parametrize("value", [value for value, _ in EXTENDED], ids=repr)
def test_a_declared_subclass_arrives_as_itself(value: Any) -> None:
    kind: Any = type(value)
    for found in (through(kind, value), through(list[kind], [value])[0]):
        assert type(found) is kind
        assert found == value
    plain = next(base for one, base in EXTENDED if one is value)
    with pytest.raises(EncodeError, match=f"Expected `{kind.__qualname__}`, got"):
        through(kind, plain)


def test_a_declared_subclass_that_holds_more_is_refused() -> None:
    class Tagged(str):
        __slots__ = ("__dict__",)

    value = Tagged("x")
    assert through(Tagged, value) == "x"
    value.colour = "red"  # type: ignore[attr-defined]
    with pytest.raises(EncodeError, match="holds more than its str"):
        through(Tagged, value)


class Animal(msgspec.Struct):
    name: str


class Bird(Animal):
    wings: int = 2


@dataclasses.dataclass
class Shape:
    area: int


@dataclasses.dataclass
class Square(Shape):
    side: int = 1


class Base(pydantic.BaseModel):
    id: int


class Derived(Base):
    more: int = 1


@attrs.define
class Left:
    x: int


@attrs.define
class Right:
    x: int


@dataclasses.dataclass
class Holder:
    shapes: list[Shape]


class Owner(pydantic.BaseModel):
    base: Base


@pytest.mark.parametrize(
    ("type_", "value", "message"),
    [
        (Animal, Bird("a"), r"Bird would arrive as Animal, .* declare Animal \| Bird"),
        (Shape, Square(1), "Square would arrive as Shape"),
        (Holder, Holder([Shape(1), Square(1)]), r"'shapes\[1\]'.*Square would arrive as Shape"),
        (Base, Derived(id=1), "Derived would arrive as Base"),
        (Owner, Owner(base=Derived(id=1)), "'base'.*Derived would come back as Base"),
        (Left, Right(1), "Expected `Left`, got `Right`"),
        (Shape, {"area": 1}, "Expected `Shape`, got `dict`"),
        (dict[str, int], Shape(1), r"Expected `dict\[str, int\]`, got `Shape`"),
        (str, uuid.UUID(int=1), "Expected `str`, got `UUID`"),
        (uuid.UUID, "00000000-0000-0000-0000-000000000001", "Expected `UUID`, got `str`"),
        (dt.date, dt.datetime(2026, 1, 1), "Expected `date`, got `datetime`"),
        (list[str], ("a",), r"Expected `list\[str\]`, got `tuple`"),
        (Sequence[str], ("a",), "Sequence.*, got `tuple`"),
        (set[int], [1], r"Expected `set\[int\]`, got `list`"),
        (int, True, "Expected `int`, got `bool`"),
        (Literal["a", "b"], "c", "Expected `.*Literal.*`, got 'c'"),
        (Any, Shape(1), "Shape would arrive as dict; declare its type"),
        (Any, [{"a": Base(id=1)}], r"at '\[0\]\.a': Base would arrive as dict"),
        (Any, pathlib.PurePosixPath("/x"), "PurePosixPath would arrive as str"),
    ],
    ids=str,
)
def test_what_would_arrive_as_something_else_is_refused(
    type_: Any, value: Any, message: str
) -> None:
    with pytest.raises(EncodeError, match=message):
        through(type_, value)


def test_gather_may_return_a_declared_tuple() -> None:
    assert through(tuple[str, tuple[int, int]], ["a", [1, 2]]) == ("a", (1, 2))
    assert through(tuple[int, ...], [1, 2]) == (1, 2)


class Movie(TypedDict, total=False):
    name: str


class Seat(TypedDict):
    row: int


def test_keys_that_are_not_declared_and_keys_that_are_missing_are_refused() -> None:
    with pytest.raises(EncodeError, match="Movie has no key 'nmae'; declare it"):
        through(Movie, {"nmae": "Alien"})
    with pytest.raises(EncodeError, match="Seat needs the key 'row'"):
        through(Seat, {})


# ------------------------------------------------------------------------------ without a type


class Size(enum.StrEnum):
    SMALL = "s"


class Colour(enum.Enum):
    RED = "red"


UNTYPED: list[Any] = [
    Decimal("1.10"),
    uuid.UUID(int=3),
    dt.date(2026, 1, 1),
    dt.datetime(2026, 1, 1),
    dt.time(9),
    dt.timedelta(days=-1, microseconds=1),
    (1, (2, 3)),
    {1, 2},
    frozenset({"a"}),
    {(1, 2): Decimal(2)},
    {uuid.UUID(int=1): {"day": dt.date(2026, 1, 1)}},
    {frozenset({1}): 1},
]


Bare = collections.namedtuple("Bare", "a b")  # its fields have no types


Kind = TypeVar("Kind", bound=Shape)


def test_fields_without_a_type_and_with_a_bound_keep_their_values() -> None:
    @dataclasses.dataclass
    class Wrapper(Generic[Kind]):
        inner: Kind

    assert through(Bare, Bare(1, (2, Decimal(3)))) == Bare(1, (2, Decimal(3)))
    assert through(Wrapper, Wrapper(Shape(1))) == Wrapper(Shape(1))


@pytest.mark.parametrize("value", UNTYPED, ids=repr)
def test_a_value_without_a_declared_type_arrives_as_it_was(value: Any) -> None:
    for found in (
        through(Any, value),
        through(object, value),
        through(dict[str, Any], {"a": value})["a"],
        through(list, [value])[0],
        decode(encode(value)),
        decode(encode(value), type(value)),
    ):
        assert (type(found), found) == (type(value), value)
    assert through(Any, [Size.SMALL]) == ["s"]
    with pytest.raises(EncodeError, match="Colour would arrive as str; declare its type"):
        through(Any, Colour.RED)


# ------------------------------------------------------------------------------ pydantic


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    id: uuid.UUID
    day: dt.date = dt.date(2026, 1, 1)
    price: Decimal = Decimal("1.10")
    pair: tuple[int, ...] = (1, 2)
    at: dt.datetime = dt.datetime(2026, 1, 1)
    colour: Colour = Colour.RED
    place: pathlib.Path = pathlib.Path("/x")
    tags: frozenset[str] = frozenset({"a", "b"})
    inner: Cat = Cat()
    body: bytes = b""


def test_a_strict_model_travels_with_bytes() -> None:
    value = Strict(id=uuid.UUID(int=1), body=b"\xff")
    assert through(Strict, value) == value
    with pytest.raises(DecodeError, match="instance of UUID"):
        decode(encode({"id": str(uuid.UUID(int=1)), "body": b"", "pair": ["1"]}), Strict)


class Loose(pydantic.BaseModel):
    at: dt.datetime | str
    day: dt.date | dt.datetime
    price: Decimal | str
    pet: Cat | Dog = Cat()


def test_unions_inside_a_model_keep_the_type_of_the_value() -> None:
    value = Loose(
        at=dt.datetime(2026, 1, 1), day=dt.datetime(2026, 1, 1), price=Decimal("1.0"), pet=Dog()
    )
    assert repr(through(Loose, value)) == repr(value)


class Twin(pydantic.BaseModel):
    x: int


class OtherTwin(pydantic.BaseModel):
    x: int


class Twins(pydantic.BaseModel):
    one: Twin | OtherTwin
    colour: Colour | str = "red"


class Hidden(pydantic.BaseModel):
    name: str
    token: str = pydantic.Field("", exclude=True)


class Bent(pydantic.BaseModel):
    name: str

    @pydantic.field_serializer("name")
    def _upper(self, name: str) -> str:
        return name.upper()


class Private(pydantic.BaseModel):
    name: str
    _cache: dict[str, int] = pydantic.PrivateAttr(default_factory=dict)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Twins(one=OtherTwin(x=1)), "'one'.*OtherTwin would come back as Twin"),
        (Twins(one=Twin(x=1), colour=Colour.RED), "'colour'.*Colour would come back as str"),
        (Hidden(name="a", token="b"), "at 'token': it is excluded .*would be lost"),
        (Bent(name="a"), "'name'.*'a' would come back as 'A'"),
    ],
    ids=repr,
)
def test_what_a_model_would_change_is_refused(value: Any, message: str) -> None:
    with pytest.raises(EncodeError, match=message):
        through(type(value), value)


def test_what_a_model_leaves_out_may_be_at_its_default() -> None:
    assert through(Hidden, Hidden(name="a")) == Hidden(name="a")
    private = Private(name="a")
    private._cache["x"] = 1
    assert through(Private, private).name == "a"
