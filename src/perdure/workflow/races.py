"""Waiting for the first of several, and for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from perdure.errors import UsageError
from perdure.workflow.caller import caller as _run

if TYPE_CHECKING:
    pass


T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


@overload
async def select(a: Awaitable[A], b: Awaitable[B], /) -> tuple[int, A | B]: ...
@overload
async def select(a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /) -> tuple[int, A | B | C]: ...
@overload
async def select(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], /
) -> tuple[int, A | B | C | D]: ...
@overload
async def select(*aws: Awaitable[T]) -> tuple[int, T]: ...
async def select(*aws: Any) -> Any:
    """Wait for the first of several. Returns its index and value.

    The others are cancelled, and their cleanup is awaited. Of those that are done at the same
    moment the first argument wins. An error of the winner is raised.
    """
    _run("select()")
    if not aws:
        msg = "select() needs at least one awaitable"
        raise UsageError(msg)
    futures = [asyncio.ensure_future(a) for a in aws]
    first = asyncio.get_running_loop().create_future()

    def wake(_: object) -> None:
        if not first.done():
            first.set_result(None)

    for future in futures:
        future.add_done_callback(wake)
    try:
        await first
        index = next(i for i, f in enumerate(futures) if f.done())
    finally:
        # Also when the caller is cancelled: its losers must not outlive it.
        losers = [f for f in futures if not f.done()]
        for loser in losers:
            loser.cancel()
        if losers:
            await asyncio.gather(*losers, return_exceptions=True)
    return index, futures[index].result()


@overload
async def join(
    *aws: Awaitable[T], order: Literal["argument", "history"] = "argument"
) -> list[T | BaseException]: ...
@overload
async def join(
    *aws: Awaitable[Any], order: Literal["argument", "history"] = "argument"
) -> list[Any]: ...
async def join(*aws: Any, order: Literal["argument", "history"] = "argument") -> Any:
    """Wait for all. Errors are values in the list.

    The order is that of the arguments, or with `"history"` that in which they completed.
    """
    _run("join()")
    if order not in ("argument", "history"):
        msg = f"join(order=...) must be 'argument' or 'history', got {order!r}"
        raise UsageError(msg)
    futures = [asyncio.ensure_future(a) for a in aws]
    completed: list[asyncio.Future[Any]] = []
    for future in futures:
        future.add_done_callback(completed.append)
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    if order == "argument":
        return outcomes
    # `gather` gives the outcomes in the order of the arguments. Callbacks run as the futures end.
    return [outcomes[futures.index(f)] for f in completed]
