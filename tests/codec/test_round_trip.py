"""Every kind of value that may be declared comes back as it was, typed; plain nested data also untyped."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import math
import pathlib
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.codec import TypeCodec, decode, encode, encode_json

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int = 0


class Movie(TypedDict, total=False):
    name: str
    year: int


class Struct(msgspec.Struct, frozen=True):
    name: str
    tags: set[str] = set()


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: list[str]


@dataclasses.dataclass(frozen=True)
class Item:
    sku: str
    cents: int = 0


@dataclasses.dataclass
class Tree:
    value: int
    children: list[Tree] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    inner: T


@attrs.define
class Order:
    items: list[Item]
    where: pathlib.PurePosixPath | None = None


class Address(pydantic.BaseModel):
    street: str = pydantic.Field(alias="Street")
    site: pydantic.HttpUrl | None = None
    key: bytes = b""
    tags: set[str] = set()
    when: dt.datetime | None = None


class StrictUser(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    id: uuid.UUID
    groups: set[int]


@dataclasses.dataclass
class Customer:
    address: Address
    others: list[Address]


@attrs.define
class Parcel:
    to: dict[str, Address]


HOME = Address(
    Street="Elm",
    site="https://x.test/",
    key=b"\xff\x00",
    tags={"a", "b"},
    when=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
)

CASES: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, -(2**63)),
    (int, 2**64 - 1),
    (float, math.inf),
    (str, "snow ☃ and \x00"),
    (bytes, b"\x00\x01\xff"),
    (bytearray, bytearray(b"ab")),
    (bytes | None, b"x"),
    (int | None, None),
    (int | str | list[int], [1]),
    (Literal["a", 1], 1),
    (Annotated[int, msgspec.Meta(ge=0)], 4),
    (list[Item], [Item("a", 1), Item("b")]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (Sequence[int], [1, 2]),
    (set[str], {"a", "b"}),
    (frozenset[int], frozenset({2, 1})),
    (set[frozenset[str]], {frozenset({"a", "b"}), frozenset({"c"})}),
    (dict[str, Item], {"b": Item("b"), "a": Item("a")}),
    (dict[int, float], {1: 0.5}),
    (dict[tuple[int, int], str], {(1, 2): "x"}),
    (dict[Color, int], {Color.RED: 1}),
    (Color, Color.RED),
    (Level, Level.HIGH),
    (Point, Point(1, 2)),
    (Movie, {"name": "Alien"}),
    (Struct, Struct("n", {"x", "y"})),
    (Cat | Dog, Dog(["sit"])),
    (Tree, Tree(1, [Tree(2), Tree(3, [Tree(4)])])),
    (Box[int], Box(1)),
    (Box[Box[Item]], Box(Box(Item("a")))),
    (Order, Order([Item("a")], pathlib.PurePosixPath("/tmp/x"))),
    (uuid.UUID, uuid.UUID(int=7)),
    (Decimal, Decimal("1.10")),
    (dt.datetime, dt.datetime(2026, 1, 2, 3, 4, 5, 6)),
    (dt.datetime, dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC)),
    (dt.date, dt.date(2026, 1, 2)),
    (dt.time, dt.time(1, 2)),
    (dt.timedelta, dt.timedelta(days=1, microseconds=1)),
    (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1")),
    (Address, HOME),
    (StrictUser, StrictUser(id=uuid.UUID(int=1), groups={1, 2})),
    (StrictUser | None, None),
    (Customer, Customer(HOME, [HOME])),
    (Parcel, Parcel({"a": HOME})),
    (object, {"a": [1]}),
    (Any, [1, {"a": None}]),
]


@pytest.mark.parametrize(
    ("type_", "value"), CASES, ids=[f"{i}-{t}" for i, (t, _) in enumerate(CASES)]
)
def test_a_declared_type_comes_back_equal_and_of_its_type(type_: Any, value: Any) -> None:
    codec = TypeCodec(type_, "value")
    data = codec.encode(value)
    back = codec.decode(data)
    assert back == value
    assert type(back) is type(value)
    assert decode(encode(value), type_) == value
    codec.check(data)


PLAIN_JSON = [
    case for case in CASES if case[1] != math.inf and case[0] not in (Address, Customer, Parcel)
]


@pytest.mark.parametrize(
    ("type_", "value"), PLAIN_JSON, ids=[f"{i}-{t}" for i, (t, _) in enumerate(PLAIN_JSON)]
)
def test_json_carries_what_json_can(type_: Any, value: Any) -> None:
    if isinstance(value, dict) and any(isinstance(key, tuple) for key in value):
        with pytest.raises(ValueError, match="cannot encode value"):
            encode_json(value)
    elif type_ is Any or not isinstance(value, (bytes, bytearray)):
        assert TypeCodec(type_, "value").decode(encode_json(value)) == value


def test_nan_survives_also_as_a_key() -> None:
    assert math.isnan(TypeCodec(float, "value").decode(encode(math.nan)))
    assert [str(key) for key in decode(encode({math.nan: 1}))] == ["nan"]


def test_raw_bytes_are_untouched() -> None:
    data = bytes(range(256))
    for value in (data, bytearray(data), memoryview(data)):
        assert encode(value) == b"\x00" + data
        assert decode(encode(value)) == data
    assert TypeCodec(bytes, "value").encode(data) == b"\x00" + data
    assert TypeCodec(bytes | None, "value").decode(b"\x00" + data) == data
    assert TypeCodec(memoryview, "value").decode(b"\x00" + data).tobytes() == data


def test_an_aware_datetime_is_known_without_a_declared_type() -> None:
    at = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    assert decode(encode({"at": at})) == {"at": at}


def test_subclasses_of_plain_types_travel_as_what_they_extend() -> None:
    class Text(str):
        __slots__ = ()

    class Number(float): ...

    class Count(int): ...

    class Blob(bytes): ...

    value = [
        Text("a"),
        Number(1.5),
        Count(3),
        Blob(b"x"),
        OrderedDict(b=Text("k")),
        defaultdict(list, a=[1]),
    ]
    assert repr(decode(encode(value))) == "['a', 1.5, 3, b'x', {'b': 'k'}, {'a': [1]}]"


def test_the_order_of_a_dict_is_kept() -> None:
    value = {"b": {"z": 1, "a": {"only", "sets", "are", "sorted"}}, "a": 2}
    back = decode(encode(value))
    assert list(back) == ["b", "a"]
    assert list(back["b"]) == ["z", "a"]


def test_sorting_the_sets_leaves_the_value_alone() -> None:
    tags = {"c", "a", "b"}
    struct = Struct("n", tags)
    model = HOME.model_copy(update={"tags": tags})
    for value in ([struct], Customer(model, []), Box(frozenset({("x", frozenset({1, 2}))}))):
        before = repr(value)
        encode(value)
        assert repr(value) == before
    assert struct.tags is tags
    assert decode(encode(struct)) == {"name": "n", "tags": ["a", "b", "c"]}


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",)))
    | st.binary()
)
KEYS = st.text(st.characters(exclude_categories=("Cs",))) | st.integers(-100, 100)
NESTED = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=25
)


@given(NESTED)
def test_any_nested_plain_data_comes_back(value: Any) -> None:
    data = encode(value)
    back = decode(data)
    assert back == value
    assert encode(back) == data
    assert repr(back) == repr(value)  # tells 1 from True and 1.0, and keeps the order of keys


# Neither booleans nor floats: of 1, True and 1.0 a set keeps whichever came first.
HASHABLE = st.recursive(
    st.none() | st.integers(-300, 300) | st.text("abcdefghij", max_size=40) | st.binary(max_size=3),
    lambda inner: st.frozensets(inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(st.lists(HASHABLE, max_size=6))
def test_a_set_encodes_the_same_however_it_was_built(items: list[Any]) -> None:
    forward: set[Any] = set()
    forward.update(items)
    backward: set[Any] = set()
    backward.update(reversed(items))
    assert encode({"s": [forward]}) == encode({"s": [backward]})
    assert len(decode(encode(forward))) == len(forward)
