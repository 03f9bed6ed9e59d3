"""The same value gives the same bytes in processes with different hash seeds: replay compares them."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import dataclasses, sys
import attrs, msgspec, pydantic
from typing import Any
from perdure.codec import Signature, TypeCodec, encode

words = {f"word{i}" for i in range(50)}

@dataclasses.dataclass
class Data:
    name: str
    tags: set[str]
    more: frozenset[str]

class Struct(msgspec.Struct, frozen=True):
    tags: frozenset[str]

@attrs.define
class Attrs:
    inner: Any

class Model(pydantic.BaseModel):
    tags: set[str]
    untyped: Any

def activity(data: Data, many: set[str], any_, *, more: Any = frozenset(words)) -> None: ...

value = [words, {"k": words}, Struct(frozenset(words)), Attrs([words, {1, "a", None, 2.5, ("x", frozenset(words))}]),
         Model(tags=words, untyped={"a": words}), {frozenset(words): 1}, Data("n", words, frozenset(words))]
arguments = Data("n", words, frozenset(words)), words, words
out = encode(value), Signature(activity, "a").encode(arguments, {}), TypeCodec(Any, "v").encode(words)
print(list(words)[:5], file=sys.stderr)
print([part.hex() for part in out])
"""


def run(seed: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


def test_bytes_do_not_depend_on_the_hash_seed() -> None:
    (first, order), (second, other) = run("1"), run("2")
    assert order != other, "the seeds must differ in effect, or this proves nothing"
    assert first == second
