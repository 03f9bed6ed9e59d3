"""What runs in a process of the pool: look the activity up by its place, decode, run, encode."""

from __future__ import annotations

import importlib
from functools import reduce
from typing import Any

from perdure.codec import Signature


def run_in_process(module: str, qualified_name: str, data: bytes) -> bytes:
    """Run the `def` activity at `module:qualified_name` with encoded arguments; the encoded result.

    The decorated name holds an `Activity`, so the function itself is taken from it.
    """
    found: Any = reduce(getattr, qualified_name.split("."), importlib.import_module(module))
    fn = getattr(found, "fn", found)
    signature = Signature(fn, f"activity {qualified_name!r}")
    args, kwargs = signature.decode(data)
    result = signature.result.encode(fn(*args, **kwargs))
    signature.result.check(result)
    return result
