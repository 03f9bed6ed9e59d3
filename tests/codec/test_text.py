"""Payloads as people see and type them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.codec import (
    DecodeError,
    Signature,
    decode,
    digest,
    encode,
    encode_json,
    from_json,
    to_json,
)


@dataclasses.dataclass
class Cart:
    card: str
    cents: int = 1


def checkout(cart: Cart) -> None: ...
def total(items: list[int]) -> None: ...
def charge(
    card: str, cents: int, price: Decimal = Decimal("1.10"), *, raw: bytes = b""
) -> None: ...
def required(a: int, b: int = 2, *, c: int) -> None: ...
def positional(a: int, /) -> None: ...
def nothing() -> None: ...
def anything(x) -> None: ...


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"\x00\xff", {"base64": "AP8="}),
        (
            {"a": [1, b"x"], 2: None, (1, 2): "t"},
            {"a": [1, {"base64": "eA=="}], "2": None, "[1,2]": "t"},
        ),
        ([math.nan, math.inf, 1.5], ["nan", "inf", 1.5]),
        (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-02T00:00:00+00:00"),
        (Cart("v"), {"card": "v", "cents": 1}),
        (msgspec.msgpack.Ext(5, b"x"), {"ext": 5, "base64": "eA=="}),
        ({"b", "a"}, ["a", "b"]),
        ("text", "text"),
    ],
)
def test_the_view_is_plain_json(value: Any, shown: Any) -> None:
    view = to_json(encode(value))
    assert view == shown
    assert json.loads(json.dumps(view, allow_nan=False)) == shown


def test_json_payloads_have_a_view_too() -> None:
    assert to_json(encode_json({"a": [1]})) == {"a": [1]}


@given(st.sampled_from([b"\x00", b"\x01", b"\x02"]), st.binary(max_size=40))
def test_the_view_never_fails_on_a_known_marker(marker: bytes, body: bytes) -> None:
    json.dumps(to_json(marker + body), allow_nan=False)


def test_a_damaged_payload_is_shown_as_damaged() -> None:
    assert to_json(b"\x01\x92\x01") == {"undecodable": "Input data was truncated", "base64": "kgE="}
    assert "undecodable" in to_json(b"\x01" + b"\x91" * 5000)
    for data in (b"", b"\x04abc"):
        with pytest.raises(DecodeError, match="format marker"):
            to_json(data)


@pytest.mark.parametrize(
    ("fn", "text", "sent"),
    [
        (checkout, '{"card": "v"}', [{"card": "v", "cents": 1}]),
        (checkout, '{"cart": {"card": "v"}}', [{"card": "v", "cents": 1}]),
        (checkout, '[{"card": "v"}]', [{"card": "v", "cents": 1}]),
        (total, "[1, 2]", [[1, 2]]),
        (total, "[[1, 2]]", [[1, 2]]),
        (total, "[1]", [[1]]),
        (charge, '["v", 5]', ["v", 5, "1.10", b""]),
        (charge, '{"cents": 5, "card": "v", "raw": "eA==", "price": 0.30}', ["v", 5, "0.30", b"x"]),
        (required, '{"a": 1, "c": 3}', [1, 2, 3]),
        (positional, '{"a": 1}', [1]),
        (positional, "1", [1]),
        (nothing, "[]", []),
        (nothing, "{}", []),
        (anything, '"text"', ["text"]),
        (anything, '{"y": 1}', [{"y": 1}]),
        (anything, "null", [None]),
    ],
)
def test_arguments_are_read_from_json(fn: Any, text: str, sent: list[Any]) -> None:
    data = from_json(text, Signature(fn, "workflow 'f'"))
    assert decode(data) == sent


@pytest.mark.parametrize(
    ("fn", "text", "message"),
    [
        (charge, '["v", "5"]', "argument 'cents' of workflow 'f': Expected `int`, got `str`"),
        (charge, '{"card": "v"}', "argument 'cents' of workflow 'f' is missing"),
        (
            charge,
            '{"card": "v", "cent": 5}',
            r"workflow 'f' has no argument 'cent'; it takes 4 \(card, cents, price, raw\)",
        ),
        (
            charge,
            '["v", 1, 2, "", 5]',
            r"workflow 'f' takes 4 \(card, cents, price, raw\), and 5 were given",
        ),
        (charge, '"v"', "argument 'cents' of workflow 'f' is missing"),
        (
            charge,
            "v",
            """arguments of workflow 'f': this is no JSON: .*text needs double quotes, as in '\\["card", 1\\]'""",
        ),
        (
            checkout,
            '{"card": 1}',
            "argument 'cart' of workflow 'f' at 'card': Expected `str`, got `int`",
        ),
        (
            checkout,
            '{"cart": {"card": 1}}',
            "argument 'cart' of workflow 'f' at 'card': Expected `str`, got `int`",
        ),
        (
            checkout,
            '[{"cents": 1}]',
            "argument 'cart' of workflow 'f': Object missing required field `card`",
        ),
        (
            total,
            '[1, "2"]',
            r"argument 'items' of workflow 'f' at '\[1\]': Expected `int`, got `str`",
        ),
        (nothing, "[1]", "workflow 'f' takes no arguments, and 1 were given"),
        (nothing, "1", "workflow 'f' takes no arguments, and 1 were given"),
    ],
)
def test_json_that_does_not_fit_names_the_argument(fn: Any, text: str, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        from_json(text, Signature(fn, "workflow 'f'"))


def test_a_digest_identifies_a_payload() -> None:
    assert digest(encode([1])) == digest(encode([1]))
    assert digest(encode([1])) != digest(encode([2]))
    assert len(digest(b"")) == 16
