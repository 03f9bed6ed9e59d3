"""Random values of random declared types arrive as what they were, by type and by value."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from random_types import KINDS, same, types_of

from perdure.codec import DecodeError, EncodeError, Signature, TypeCodec, decode, encode, to_json


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
