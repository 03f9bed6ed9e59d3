"""Checkpoints: short side effects whose outcome is recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from perdure.codec import TypeCodec, encode
from perdure.codec.derived import difference, returned_type
from perdure.errors import UsageError
from perdure.kernel.data.definition import check_label
from perdure.kernel.execution import commands
from perdure.workflow.caller import caller as _run

if TYPE_CHECKING:
    pass


T = TypeVar("T")
A = TypeVar("A")


@overload
async def checkpoint(
    name: str, fn: Callable[[], Awaitable[T]], /, *, type: type[T] | None = None
) -> T: ...
@overload
async def checkpoint(name: str, fn: Callable[[], T], /, *, type: type[T] | None = None) -> T: ...
async def checkpoint(name: str, fn: Any, /, *, type: Any = None) -> Any:
    """Run a function in this process and record its outcome under a name.

    It is run at least once, recorded once, and never run again in replay. It is for short side
    effects that need no options of an activity. The function runs outside the workflow's loop, so
    it may do I/O. `fn` is a function, or an `async def`, without arguments. The recorded value is
    decoded as `type`. Without it the annotation of `fn` counts. A function without one, such as a
    lambda, may only return plain data.

    Raises:
        ApplicationError: the function failed, or its value needs a `type=`.
        DecodeError: the value is not of the type.
    """
    run = _run("checkpoint()")
    # The value must be of the same type live and in replay. Plain data is so without a type.
    what = f"checkpoint {check_label(name, 'a checkpoint')!r}"
    if type is not None:
        declared = type
    else:
        declared = returned_type(fn)
    if declared is not None:
        codec: TypeCodec[Any] = TypeCodec(declared, what)
        encoder = codec.encode
    else:
        codec = TypeCodec(Any, what)
        encoder = partial(_encode_plain, codec)
    return await commands.start_checkpoint(run, name, fn, encoder, codec)


def _encode_plain(codec: TypeCodec[Any], value: object) -> bytes:
    """Encode a value that is read again without a type.

    Raises:
        UsageError: it would come back as something else.
    """
    data = encode(value)
    differs = difference(value, codec.decode(data))
    if differs is not None:
        msg = (
            f"the value of {codec.what} needs a type: {differs}; annotate the result of the "
            "function, "
            "or give type=, such as workflow.checkpoint(..., type=list[Item])"
        )
        raise UsageError(msg)
    return data
