"""Unions and constraints: each alternative arrives as itself, and each constraint holds or is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import pathlib
import uuid
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar
from zoneinfo import ZoneInfo

import annotated_types
import attrs
import msgspec
import pydantic
import pytest

from perdure.codec import DecodeError, Signature, TypeCodec

T = TypeVar("T")
BERLIN = ZoneInfo("Europe/Berlin")


def through(type_: Any, value: Any) -> Any:
    codec = TypeCodec(type_, "value")
    return codec.decode(codec.encode(value))


class Name(str):
    __slots__ = ()


class Animal(msgspec.Struct):
    name: str


class Bird(Animal):
    wings: int = 2


class Base(pydantic.BaseModel):
    id: int


class Derived(Base):
    more: int = 1


class Size(enum.StrEnum):
    SMALL = "s"


@dataclasses.dataclass
class Card:
    number: str


@dataclasses.dataclass
class Transfer:
    number: str


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"


@dataclasses.dataclass
class Row:
    at: dt.datetime | str
    pay: Card | Transfer
    more: list[Row] = dataclasses.field(default_factory=list)
    n: int = 5


@attrs.define
class Flat:
    key: uuid.UUID | str
    n: int = 1


class Folder(msgspec.Struct, rename="camel", kw_only=True):
    some_key: uuid.UUID | str
    sub_folders: list[Folder] = []


@dataclasses.dataclass
class Box(Generic[T]):
    inner: T


UNIONS: list[tuple[Any, Any]] = [
    (uuid.UUID | str, "x"),
    (uuid.UUID | str, str(uuid.UUID(int=1))),
    (uuid.UUID | str, uuid.UUID(int=1)),
    (uuid.UUID | str | None, None),
    (pathlib.PurePosixPath | str, pathlib.PurePosixPath("/x")),
    (Decimal | str, "1.1"),
    (Decimal | float, 1.5),
    (Decimal | float, Decimal("1.5")),
    (dt.datetime | str, dt.datetime(2026, 1, 1, tzinfo=BERLIN)),
    (dt.date | dt.datetime, dt.datetime(2026, 1, 1)),
    (dt.date | dt.datetime, dt.date(2026, 1, 1)),
    (bytes | str, b"x"),
    (Size | str, "s"),
    (Size | str, Size.SMALL),
    (Card | Transfer, Transfer("1")),
    (Card | Transfer | None, Card("1")),
    (list[Card | Transfer], [Card("1"), Transfer("1")]),
    (dict[str, Card] | Card, Card("1")),
    (Cat | Dog, Dog()),
    (Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], Dog()),
    (Base | Derived, Derived(id=1)),
    (Animal | Bird, Bird("a")),
    (list[int] | list[str], ["a"]),
    (list[int] | tuple[int, ...] | set[int], (1,)),
    (Name | str, Name("x")),
    (Name | str, "x"),
    (Row, Row("soon", Transfer("1"), [Row(dt.datetime(2026, 1, 1), Card("2"))])),
    (Flat, Flat(uuid.UUID(int=1))),
    (Folder, Folder(some_key="a", sub_folders=[Folder(some_key=uuid.UUID(int=1))])),
    (Box[uuid.UUID | str], Box(uuid.UUID(int=2))),
    (Box[Card | Transfer], Box(Transfer("1"))),
]


@pytest.mark.parametrize(("type_", "value"), UNIONS, ids=str)
def test_an_alternative_of_a_union_arrives_as_itself(type_: Any, value: Any) -> None:
    def fn(a: Any) -> Any: ...

    fn.__annotations__ = {"a": type_, "return": type_}
    signature = Signature(fn, "fn")
    found = [
        through(type_, value),
        signature.result.decode(signature.result.encode(value)),
        *signature.decode(signature.encode((value,), {}))[0],
    ]
    assert [(type(one), repr(one)) for one in found] == [(type(value), repr(value))] * 3


def test_a_default_of_a_class_with_a_union_is_filled_in() -> None:
    assert TypeCodec(Flat, "value").decode(b'\x02{"key": "a"}') == Flat("a", 1)


def test_a_value_without_a_name_is_taken_for_the_only_alternative_that_fits() -> None:
    codec: TypeCodec[Any] = TypeCodec(Card | Animal, "value")
    assert codec.decode(b'\x02{"number": "1"}') == Card("1")
    assert codec.decode(b'\x02{"name": "a"}') == Animal("a")
    with pytest.raises(DecodeError, match="it fits Card and Transfer; send it from code"):
        TypeCodec(Card | Transfer, "value").decode(b'\x02{"number": "1"}')
    with pytest.raises(DecodeError, match="Expected"):
        codec.decode(b'\x02{"x": 1}')


def test_a_type_may_become_an_alternative_of_a_union() -> None:
    old = TypeCodec(Card, "value").encode(Card("1"))
    assert TypeCodec(Card | Animal, "value").decode(old) == Card("1")


@dataclasses.dataclass
class Sold:
    count: Annotated[int, pydantic.Field(gt=0)]
    price: Annotated[Decimal, annotated_types.Ge(Decimal("0.1"))] = Decimal(1)


@pytest.mark.parametrize(
    ("type_", "good", "bad", "message"),
    [
        (Annotated[int, msgspec.Meta(gt=0)], 1, 0, "Expected `int` >= 1"),
        (Annotated[int, pydantic.Field(gt=0)], 1, 0, "Expected `int` >= 1"),
        (pydantic.PositiveInt, 1, 0, "Expected `int` >= 1"),
        (Annotated[int, annotated_types.Interval(ge=1, lt=3)], 2, 3, "Expected `int`"),
        (Annotated[str, pydantic.StringConstraints(min_length=3)], "abc", "", "length >= 3"),
        (Annotated[str, pydantic.Field(pattern="^a+$")], "aa", "b", "regex"),
        (Annotated[list[int], annotated_types.MinLen(1)], [1], [], "length >= 1"),
        (
            Annotated[Decimal, pydantic.Field(gt=0)],
            Decimal(1),
            Decimal(0),
            "`Decimal` with `> 0`",
        ),
        (
            Annotated[dt.date, annotated_types.Ge(dt.date(2026, 1, 1))],
            dt.date(2026, 1, 1),
            dt.date(2025, 1, 1),
            "`date` with `>= 2026-01-01`",
        ),
        (
            list[Annotated[uuid.UUID | int, annotated_types.Predicate(bool)]],
            [uuid.UUID(int=1), 1],
            [0],
            "the predicate",
        ),
        (Sold, Sold(1), Sold(0), "`count`|count"),
        (Sold, Sold(1), Sold(1, Decimal(0)), "`Decimal` with `>= 0.1`"),
    ],
    ids=str,
)
def test_a_constraint_is_kept(type_: Any, good: Any, bad: Any, message: str) -> None:
    assert through(type_, good) == good
    with pytest.raises(DecodeError, match=message):
        through(type_, bad)


@pytest.mark.parametrize(
    "type_",
    [
        Annotated[int, pydantic.AfterValidator(abs)],
        Annotated[str, pydantic.StringConstraints(strip_whitespace=True)],
        Annotated[Decimal, pydantic.Field(max_digits=3)],
        pydantic.UUID4,
        list[Annotated[int, pydantic.AfterValidator(abs)]],
    ],
    ids=str,
)
def test_a_constraint_that_cannot_be_kept_is_refused_in_the_definition(type_: Any) -> None:
    def fn(a: Any) -> None: ...

    fn.__annotations__ = {"a": type_, "return": None}
    with pytest.raises(TypeError, match=r"'a' of fn: .*; .*pydantic model"):
        Signature(fn, "fn")


def test_metadata_that_is_no_constraint_means_nothing() -> None:
    assert through(Annotated[int, "cents", {"unit": "cents"}], 5) == 5


@dataclasses.dataclass
class Left:
    number: str


def test_a_renamed_alternative_is_found_by_its_fields() -> None:
    @dataclasses.dataclass
    class Wire:
        iban: str

    old = TypeCodec(Card | Wire, "value").encode(Wire("DE1"))

    @dataclasses.dataclass
    class BankTransfer:
        iban: str

    renamed: TypeCodec[Any] = TypeCodec(Card | BankTransfer, "value")
    assert renamed.decode(old) == BankTransfer("DE1")
    twins: TypeCodec[Any] = TypeCodec(Transfer | Card, "value")
    with pytest.raises(DecodeError, match=r"it fits (Card and Transfer|Transfer and Card)"):
        twins.decode(TypeCodec(BankTransfer | uuid.UUID | Left, "value").encode(Left("1")))


def test_a_constraint_in_a_union_is_kept() -> None:
    type_: Any = Annotated[int, annotated_types.Gt(0)] | uuid.UUID | str
    for value in (5, uuid.UUID(int=1), "x"):
        assert through(list[type_], [value, uuid.UUID(int=2)]) == [value, uuid.UUID(int=2)]
    with pytest.raises(DecodeError, match="Expected"):
        through(type_, -5)


def test_a_new_type_beside_the_type_that_it_stands_for_is_one_alternative() -> None:
    sku: Any = NewType("sku", str)
    assert through(sku | str | uuid.UUID, uuid.UUID(int=1)) == uuid.UUID(int=1)
    assert through(sku | str | uuid.UUID, "x") == "x"
