"""Typed values as bytes, and back, for journals, inboxes and wires.

A payload is one byte that names the format, and a body. The default format is msgpack, encoded by
`msgspec`, without pickle and without names of modules. So other languages and other versions of the
code can read it. Raw bytes pass through untouched. Encoding is deterministic: a value has the same
bytes in every process, because replay compares them. And what is read equals what was written, or
it is refused when it is written.

    shape.py        a declared type, seen from its values: which arrive as they are
    nested.py       the shapes of lists, tuples, sets and dicts, and of values without a type
    record.py       the shapes of classes with fields
    union.py        the shapes of unions, and of types with constraints
    model.py        the shapes of pydantic models
    annotation.py   from an annotation to its shape
    constraint.py   constraints in `Annotated`
    stand_in.py     types that msgspec reads through a shape
    extension.py    extension types of msgpack, for values that plain msgpack does not keep
    plain.py        the hooks for values that msgspec does not know (pydantic, paths)
    validation.py   plain data as pydantic models
    compare.py      the first difference between a value and what is read of it
    fault.py        values that cannot be encoded or decoded: where, why, and the remedy
    failure.py      an exception as data
    declared.py     annotations, resolved and checked when a definition is made, not when it runs
    derived.py      types without a declaration, told from values and results
    payload.py      the formats: `encode`, `decode`, `TypeCodec` for one declared type
    signature.py    `Signature` for the arguments of a function
    text.py         payloads for people: JSON in and out
"""

from __future__ import annotations

from perdure.codec.payload import TypeCodec, decode, digest, encode
from perdure.codec.signature import Signature
from perdure.codec.text import alike, encode_json, from_json, to_json
from perdure.errors import DecodeError, EncodeError, PayloadError, PayloadTooLarge

__all__ = [
    "DecodeError",
    "EncodeError",
    "PayloadError",
    "PayloadTooLarge",
    "Signature",
    "TypeCodec",
    "alike",
    "decode",
    "digest",
    "encode",
    "encode_json",
    "from_json",
    "to_json",
]
