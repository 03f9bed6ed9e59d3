"""Typed values as bytes, and back, for journals, inboxes and wires.

A payload is one byte that names the format, and a body. The default format is msgpack, encoded by
`msgspec`, without pickle and without names of classes. So other languages and other versions of the
code can read it. Raw bytes pass through untouched. Encoding is deterministic: a value has the same
bytes in every process, because replay compares them.

    plain.py        values that msgspec does not know (pydantic, paths), and sets in a fixed order
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
