"""Arguments bind as in Python, travel in the order of the parameters, and come back typed."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NoReturn

import msgspec
import pytest

from perdure.codec import DecodeError, Signature, decode, encode, encode_json


@dataclasses.dataclass
class Cart:
    card: str
    cents: int = 1


async def charge(card: str, cents: int, note: str = "none", *, cart: Cart | None = None) -> str: ...


def positional(a: int, /, b: int = 2) -> None: ...
def keyword(a: int, b: int = 2, *, c: int, d: int = 4) -> None: ...
def nothing() -> NoReturn: ...
def untyped(a, b=[1, 2], __c=3): ...
def names(self: int, args: int, kwargs: int, _x: int, type: int, print: int = 5) -> None: ...


class Service:
    async def add(self, amount: int, by: str = "me") -> int: ...


CHARGE = Signature(charge, "activity 'charge'")


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "sent"),
    [
        (charge, ("v", 1), {}, ["v", 1, "none", None]),
        (
            charge,
            (),
            {"cents": 1, "card": "v", "cart": Cart("x")},
            ["v", 1, "none", {"card": "x", "cents": 1}],
        ),
        (charge, ("v", 1, "n"), {}, ["v", 1, "n", None]),
        (positional, (1,), {}, [1, 2]),
        (positional, (1,), {"b": 3}, [1, 3]),
        (keyword, (1,), {"c": 3}, [1, 2, 3, 4]),
        (keyword, (), {"d": 0, "c": 3, "a": 1}, [1, 2, 3, 0]),
        (nothing, (), {}, []),
        (untyped, (1,), {}, [1, [1, 2], 3]),
        (names, (1,), {"args": 2, "kwargs": 3, "_x": 4, "type": 5}, [1, 2, 3, 4, 5, 5]),
        (functools.partial(charge, cents=5), ("v",), {}, ["v", 5, "none", None]),
    ],
)
def test_a_call_binds_as_in_python(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], sent: list[Any]
) -> None:
    signature = Signature(fn, "activity 'f'")
    data = signature.encode(args, kwargs)
    assert decode(data) == sent
    signature.check(data)
    back_args, back_kwargs = signature.decode(data)
    fn(*back_args, **back_kwargs).close() if hasattr(fn, "func") or fn is charge else fn(
        *back_args, **back_kwargs
    )
    assert [*back_args, *back_kwargs.values()] == [
        Cart("x") if s == {"card": "x", "cents": 1} else s for s in sent
    ]


def test_keyword_only_arguments_come_back_by_name() -> None:
    assert CHARGE.names == ("card", "cents", "note", "cart")
    assert CHARGE.decode(CHARGE.encode(("v", 1), {"cart": Cart("x")})) == (
        ("v", 1, "none"),
        {"cart": Cart("x")},
    )


def test_a_method_leaves_self_out() -> None:
    signature = Signature(Service.add, "method 'add'", skip_first=True)
    assert signature.names == ("amount", "by")
    assert signature.decode(signature.encode((1,), {})) == ((1, "me"), {})
    assert signature.result.decode(encode(3)) == 3


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "message"),
    [
        (charge, ("v",), {}, r"charge\(\) missing a required argument: 'cents'"),
        (charge, ("v", 1, "n", Cart("x")), {}, r"charge\(\) too many positional arguments"),
        (charge, ("v", 1), {"card": "w"}, r"charge\(\) multiple values for argument 'card'"),
        (charge, ("v", 1), {"cord": "w"}, r"charge\(\) got an unexpected keyword argument 'cord'"),
        (positional, (), {"a": 1}, r"positional\(\) .*'a'"),
        (keyword, (1,), {}, r"keyword\(\) missing a required .*'c'"),
        (nothing, (1,), {}, r"nothing\(\) too many positional arguments"),
    ],
)
def test_a_wrong_call_is_refused_as_by_python(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        Signature(fn, "activity 'f'").encode(args, kwargs)


def test_missing_arguments_at_the_end_get_their_defaults() -> None:
    assert CHARGE.decode(encode(["v", 1])) == (("v", 1, "none"), {"cart": None})
    assert Signature(untyped, "f").decode(encode([0])) == ((0, [1, 2], 3), {})


def test_a_default_that_is_none_widens_its_type() -> None:
    def fn(limit: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    signature = Signature(fn, "f")
    assert signature.decode(signature.encode((), {})) == ((None,), {})


def test_json_from_another_language_is_read() -> None:
    assert CHARGE.decode(encode_json(["v", 1, "n", {"card": "x"}])) == (
        ("v", 1, "n"),
        {"cart": Cart("x")},
    )
    with pytest.raises(
        DecodeError, match=r"argument 'cart\.cents' of activity 'charge': Expected `int`, got `str`"
    ):
        CHARGE.check(encode_json(["v", 1, "n", {"card": "x", "cents": "1"}]))


def test_the_same_call_is_known_after_a_parameter_was_added() -> None:
    def before(card: str, cents: int) -> None: ...
    def after(
        card: str, cents: int, note: str = "none", tags: frozenset[str] = frozenset({"b", "a"})
    ) -> None: ...

    old, new = Signature(before, "f"), Signature(after, "f")
    recorded, now = old.encode(("v", 1), {}), new.encode(("v", 1), {})
    assert recorded != now
    assert new.same(recorded, now)
    assert new.same(now, recorded)
    assert new.same(recorded, recorded)
    assert new.same(encode_json(["v", 1]), now)
    assert new.same(encode(["v", 1, "none", ["b", "a"]]), now)
    assert not new.same(recorded, new.encode(("v", 1, "other"), {}))
    assert not new.same(recorded, new.encode(("w", 1), {}))
    assert not new.same(encode(["v"]), now)
    assert not old.same(recorded, now), (
        "a parameter that this signature does not know has no default here"
    )
    assert not new.same(b"\x09", now)
    assert not new.same(b"", now)
    assert not new.same(b"\x01\xff", now)


def test_the_same_call_is_known_after_a_field_was_added() -> None:
    class Struct(msgspec.Struct):
        x: int
        note: str = ""
        cart: Cart | None = None

    def fn(cart: Cart, many: list[Struct]) -> None: ...

    signature = Signature(fn, "f")
    recorded = encode([{"card": "v"}, [{"x": 1, "cart": {"card": "w"}}]])
    now = signature.encode((Cart("v"), [Struct(1, cart=Cart("w"))]), {})
    assert recorded != now
    assert signature.same(recorded, now)
    assert not signature.same(
        recorded, signature.encode((Cart("v", 2), [Struct(1, cart=Cart("w"))]), {})
    )
    assert not signature.same(
        recorded, signature.encode((Cart("v"), [Struct(1, cart=Cart("w", 2))]), {})
    )


def test_types_that_live_in_the_enclosing_function_are_found() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    def outer() -> Signature:
        def fn(value: Local) -> Local: ...

        return Signature(fn, "f")

    assert outer().decode(encode([{"x": 1}])) == ((Local(1),), {})
