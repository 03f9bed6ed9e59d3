"""Each refusal names what was refused, where it is inside, and what to do instead."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from io import StringIO
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
import pydantic
import pytest

from perdure.codec import (
    DecodeError,
    EncodeError,
    Signature,
    TypeCodec,
    decode,
    encode,
    encode_json,
)

if TYPE_CHECKING:
    from nowhere import Unseen


@dataclasses.dataclass
class Item:
    cents: int
    callback: Any = None


@dataclasses.dataclass
class Cart:
    items: list[Item]


@dataclasses.dataclass
class Other:
    x: int


@attrs.define
class Private:
    _x: int


@dataclasses.dataclass
class Unresolved:
    x: Missing  # noqa: F821


@dataclasses.dataclass
class Wallet:
    address: Address | None = None


class Address(pydantic.BaseModel):
    zip: int
    secret: pydantic.SecretStr | None = None


class Plain:
    pass


def charge(cart: Cart, note: Any = None, wallet: Wallet | None = None) -> str: ...


CHARGE = Signature(charge, "activity 'charge'")


async def coroutine() -> None: ...


cycle: list[Any] = []
cycle.append(cycle)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


deep = nested(500_000)  # beyond what the C stack holds, which is the only limit from Python 3.14 on


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (len, "'note' of .*: a function is not data; pass its name"),
        ({"a": [1, lambda: 0]}, r"'note\.a\[1\]' of .*: a function is not data"),
        ({"not a name": print}, r"'note\['not a name'\]' of .*: a function"),
        (
            {2**70: 1},
            r"'note \(a key\)' of .*: the integer needs 71 bits and 64 are the limit; pass it as a str or a Decimal",
        ),
        ([-(2**63) - 1], r"'note\[0\]' of .*: the integer needs 64 bits"),
        ("\ud800", r"'note' of .*: the text holds a lone surrogate"),
        (Plain, "the class Plain is not data; pass an instance, or its name"),
        (
            Plain(),
            "a Plain is not data; use a dataclass, msgspec.Struct, attrs class, pydantic model",
        ),
        (ValueError("x"), r"an exception is not data; pass str\(error\)"),
        (StringIO("x"), r"an open file \(StringIO\) is not data; pass its path"),
        (range(3), r"a range is not plain data; pass list\(\.\.\.\)"),
        (collections.ChainMap({}), r"a ChainMap is not plain data; pass dict\(\.\.\.\)"),
        ({1 + 2j}, r"'note\[\.\.\.\]' of .*: a complex is not data"),
        (cycle, r"'note\[0\]' of .*: it contains itself; pass ids"),
        (deep, r"'note\[0\]\[0\].*\.\.\.' of .*: it is nested too deeply"),
        (
            [Address(zip=1)],
            r"'note\[0\]' of .*: Address would arrive as dict; declare its type",
        ),
    ],
)
def test_what_cannot_be_encoded_is_named(value: Any, message: str) -> None:
    with pytest.raises(EncodeError, match=message):
        CHARGE.encode((Cart([]), value), {})


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            Address(zip=1, secret=pydantic.SecretStr("x")),
            r"'wallet\.address\.secret' of .*: a SecretStr is not data",
        ),
        (
            Address.model_construct(zip="x"),
            r"'wallet\.address' of .*: Address: .*Expected `int`",
        ),
    ],
)
def test_what_a_model_cannot_give_is_named(address: Address, message: str) -> None:
    with pytest.raises(EncodeError, match=message):
        CHARGE.encode((Cart([]), None, Wallet(address)), {})


def by_itself(value: Any) -> Any:
    return decode(encode(value))


def as_argument(value: Any) -> Any:
    positional, _ = CHARGE.decode(CHARGE.encode((Cart([]), value), {}))
    return positional[1]


@pytest.mark.parametrize("there_and_back", [by_itself, as_argument])
@pytest.mark.parametrize("depth", [100, 800, 4_000, 6_000, 20_000, 45_000, 60_000, 90_000])
def test_what_is_accepted_can_be_read_however_deep(
    depth: int, there_and_back: Callable[[Any], Any]
) -> None:
    """From Python 3.14 on decoding needs more of the C stack than encoding."""
    problem = ""
    try:
        assert depth_of(there_and_back(nested(depth))) == depth
    except EncodeError as error:
        problem = str(error)
    if depth <= 800:  # beyond, it depends on the Python
        assert not problem
    assert not problem or problem.endswith("it is nested too deeply; flatten it")


def depth_of(value: Any) -> int:
    depth = 0
    while value:
        value, depth = value[0], depth + 1
    return depth


def test_many_parts_side_by_side_are_not_deep() -> None:
    value = [{"number": n, "parts": [[n], [{}]]} for n in range(20_000)]
    assert decode(encode(value)) == value


def test_the_path_goes_through_objects() -> None:
    cart = Cart([Item(1), Item(2), Item(3, callback=print)])
    with pytest.raises(EncodeError) as caught:
        CHARGE.encode((cart,), {})
    assert str(caught.value) == (
        "cannot encode argument 'cart.items[2].callback' of activity 'charge': "
        "a function is not data; pass its name, or call it and pass the result"
    )
    with pytest.raises(
        EncodeError,
        match=r"^cannot encode result of activity 'charge' at 'items\[2\]\.callback': a function",
    ):
        TypeCodec(Cart, "result of activity 'charge'").encode(cart)
    with pytest.raises(EncodeError, match=r"^cannot encode value at 'items\[2\]\.callback'"):
        encode(cart)


async def test_a_forgotten_await_is_named() -> None:
    forgotten, task = coroutine(), asyncio.ensure_future(asyncio.sleep(0))
    with pytest.raises(EncodeError, match="a coroutine is not data; was an `await` forgotten"):
        encode([forgotten])
    with pytest.raises(EncodeError, match="a Task is not data; was an `await` forgotten"):
        encode([task])
    forgotten.close()
    await task


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            encode([{"items": [{"cents": "1"}]}]),
            r"argument 'cart\.items\[0\]\.cents' of activity 'charge': Expected `int`, got `str`",
        ),
        (
            encode([{"items": [{"cents": 1.5}]}]),
            r"cents' of activity 'charge': Expected `int`, got `float`",
        ),
        (
            encode([{"items": [{}]}]),
            r"argument 'cart\.items\[0\]' of .*: Object missing required field `cents`",
        ),
        (
            encode([{"items": []}, 1, {"address": {"zip": "x"}}]),
            r"argument 'wallet\.address' of .*: .*valid integer.* \(`zip` of Address\)",
        ),
        (encode([]), "argument 'cart' of activity 'charge' is missing"),
        (
            encode([{"items": []}, 2, None, 4]),
            "activity 'charge' was given 4 arguments and takes at most 3; the sender knows a newer definition",
        ),
        (encode({"a": 1}), "arguments of activity 'charge': Expected `array`, got `object`"),
        (b"", "arguments of activity 'charge': the payload is empty"),
        (b"\x01", "arguments of activity 'charge': Input data was truncated"),
        (
            b"\x01\x92\x81\xa5items\x90\xa1\xff",
            "arguments of activity 'charge': 'utf-8' codec can't decode",
        ),
        (b"\x00abc", "arguments of activity 'charge': raw bytes are not arguments"),
        (
            b"\x07abc",
            "arguments of activity 'charge': unknown format marker 0x07 .* newer version .* upgrade",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(data: bytes, message: str) -> None:
    for read in (CHARGE.check, CHARGE.decode):
        with pytest.raises(DecodeError, match=message):
            read(data)


@pytest.mark.parametrize(
    ("type_", "data", "message"),
    [
        (int, encode("1"), "^result of 'f': Expected `int`, got `str`$"),
        (list[int], encode([1, "2"]), r"^result of 'f' at '\[1\]': Expected `int`, got `str`$"),
        (
            dict[str, dict[int, str]],
            encode({"a": {"x": "y"}}),
            r"^result of 'f' at '\[\.\.\.\]': a key: Expected `int`, got `str`$",
        ),
        (str, b"\x00abc", "^result of 'f': Expected `str`, got `bytes`$"),
        (str, b"", "^result of 'f': the payload is empty"),
        (str, b"\x80", "^result of 'f': unknown format marker 0x80"),
        (str, b'\x02"abc', "^result of 'f': Input data was truncated$"),
        (Any, b"\x01" + b"\x91" * 100_000 + b"\x01", "^result of 'f': it is nested too deeply$"),
        (
            Address,
            encode({"zip": "x"}),
            r"^result of 'f': Input should be a valid integer.* \(`zip` of Address\)$",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_named(type_: Any, data: bytes, message: str) -> None:
    codec = TypeCodec(type_, "result of 'f'")
    with pytest.raises(DecodeError, match=message):
        codec.decode(data)
    with pytest.raises(DecodeError, match=message):
        codec.check(data)


def test_decoding_by_type_refuses_too() -> None:
    with pytest.raises(DecodeError, match="value: Expected `int`"):
        decode(encode("1"), int)
    with pytest.raises(TypeError, match="value: Plain cannot be carried"):
        decode(encode("1"), Plain)


def test_json_cannot_carry_nan() -> None:
    with pytest.raises(EncodeError, match="holds nan or an infinity"):
        encode_json({"a": [float("nan")]})
    assert decode(encode_json({"a": None})) == {"a": None}


def stars(*many: int) -> None: ...
def double_stars(**many: int) -> None: ...
def unseen(a: int, b: list[Unseen]) -> None: ...
def unseen_result(a: int) -> Unseen: ...
def bad_default(a: int = "x") -> None: ...  # type: ignore[assignment]
def odd_default(a: Any = object()) -> None: ...
def callback(a: Callable[[], None]) -> None: ...
def iterable(a: Iterable[int]) -> None: ...
def inner(a: dict[str, list[Plain]]) -> None: ...
def result() -> complex: ...
def awaited() -> Awaitable[int]: ...
def private(a: Private) -> None: ...
def field(a: Unresolved) -> None: ...
def ordered(a: collections.OrderedDict[str, int]) -> None: ...


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (stars, r"activity 'f' takes '\*many', which has no fixed place; declare a list parameter"),
        (double_stars, r"activity 'f' takes '\*\*many', .* declare a dict parameter"),
        (
            unseen,
            r"activity 'f': the annotation 'list\[Unseen\]' of parameter 'b' cannot be resolved: .*; define",
        ),
        (unseen_result, "activity 'f': the annotation 'Unseen' of the result cannot be resolved"),
        (
            bad_default,
            "argument 'a' of activity 'f': its default 'x' cannot be used: .*Expected `int`, got `str`",
        ),
        (
            odd_default,
            "argument 'a' of activity 'f': its default <object .*cannot be used: .* is not data",
        ),
        (
            callback,
            "argument 'a' of activity 'f': Callable.* cannot be carried; a function is not data: pass its name",
        ),
        (iterable, "argument 'a' of activity 'f': Iterable.* cannot be carried; use list"),
        (
            inner,
            r"argument 'a' of activity 'f': Plain in dict\[.* cannot be carried; use a dataclass",
        ),
        (result, "result of activity 'f': complex cannot be carried"),
        (
            awaited,
            "result of activity 'f': Awaitable.* cannot be carried; declare what it returns when",
        ),
        (dict, "activity 'f': no signature found .*; wrap it in a function with annotations"),
        (private, "the private field '_x' of Private would be lost; rename it"),
        (
            field,
            "argument 'a' of activity 'f': a field of Unresolved cannot be resolved: name 'Missing'",
        ),
        (ordered, "OrderedDict.* cannot be carried; use dict"),
    ],
)
def test_a_definition_that_cannot_work_is_refused(fn: Callable[..., object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Signature(fn, "activity 'f'")


def test_tagged_structs_are_the_remedy_for_a_union() -> None:
    class A(msgspec.Struct, tag=True):
        x: int

    class B(msgspec.Struct, tag=True):
        x: int

    codec: TypeCodec[Any] = TypeCodec(A | B, "result of 'f'")
    assert codec.decode(codec.encode(B(1))) == B(1)
