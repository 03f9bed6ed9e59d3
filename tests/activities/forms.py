"""Functions in every form that Python can call, as activities. On a thread, on the loop and in processes."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from typing import Any

from perdure import ActivityError, App, activity

app = App("forms")


def timed(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper that is as asynchronous as the function."""

    @functools.wraps(fn)
    async def inner(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return inner


def counted(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A plain wrapper: it hands on the coroutine of an `async def`, as many decorators do."""

    @functools.wraps(fn)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return inner


def to_its_end(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A plain wrapper that runs the coroutine itself, which cannot be done on the node's loop."""

    @functools.wraps(fn)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(fn(*args, **kwargs))

    return inner


async def add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


def add_plainly(a: int, b: int) -> int:
    return a + b


class Adder:
    """An object that can be called."""

    def __init__(self, b: int) -> None:
        self.b = b

    async def __call__(self, a: int) -> int:
        await asyncio.sleep(0)
        return a + self.b

    async def method(self, a: int) -> int:
        return a + self.b

    def plain_method(self, a: int) -> int:
        return a + self.b

    @classmethod
    def of_the_class(cls, a: int) -> int:
        return a + 2

    @staticmethod
    @app.activity(name="static-below")
    async def static_below(a: int) -> int:
        return a + 2

    @app.activity(name="static-above")
    @staticmethod
    async def static_above(a: int) -> int:
        await asyncio.sleep(0)
        return a + 2


class PlainAdder:
    """An object that can be called, on a thread."""

    def __call__(self, a: int) -> int:
        return a + 2


class Decorator:
    """A decorator that is a class."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        functools.update_wrapper(self, fn)
        self.fn_inside = fn

    def __call__(self, *args: Any) -> Any:
        return self.fn_inside(*args)


@app.activity
@timed
async def with_async_wrapper(a: int) -> int:
    return a + 2


@app.activity
@counted
async def with_plain_wrapper(a: int) -> int:
    await asyncio.sleep(0)
    return a + 2


@app.activity
@counted
async def asks_behind_a_wrapper() -> str:
    await asyncio.sleep(0)
    return activity.info().name


@app.activity
@to_its_end
async def run_to_its_end(a: int) -> int:
    await asyncio.sleep(0)
    return a + 2


@timed
@app.activity
async def wrapped_outside(a: int) -> int:
    return a + 2


@app.activity
@Decorator
def with_a_class(a: int) -> int:
    return a + 2


@app.activity
@functools.cache
def cached(a: int) -> int:
    return a + 2


@app.activity(executor="process")
def in_process(a: int) -> int:
    return a + 2


@app.activity(executor="process")
@counted
def decorated_in_process(a: int) -> int:
    return a + 2


@timed
@app.activity(executor="process")
def outside_in_process(a: int) -> int:
    return a + 2


def given_as_function(a: int) -> int:
    return a + 2


class Named:
    @staticmethod
    @app.activity(executor="process")
    def in_a_class(a: int) -> int:
        return a + 2


@app.activity(executor="process")
def renamed(a: int) -> int:
    return a + 2


under_another_name = renamed
if os.environ.get("PERDURE_FORMS") != "the name":
    del renamed

adder = Adder(2)
FORMS: dict[str, Any] = {
    "async wrapper": with_async_wrapper,
    "plain wrapper": with_plain_wrapper,
    "run to its end": run_to_its_end,
    "wrapped outside": wrapped_outside,
    "a class as decorator": with_a_class,
    "cached": cached,
    "partial by name": app.activity(name="plus2")(functools.partial(add, b=2)),
    "partial by position": app.activity(name="2plus")(functools.partial(add, 2)),
    "plain partial": app.activity(name="2plus-plain")(functools.partial(add_plainly, 2)),
    "partial of a partial": app.activity(name="4")(functools.partial(functools.partial(add, 2))),
    "partial of an object": app.activity(name="5")(functools.partial(adder)),
    "object": app.activity(name="6")(adder),
    "plain object": app.activity(name="7")(PlainAdder()),
    "method": app.activity(adder.method),
    "plain method": app.activity(adder.plain_method),
    "class method": app.activity(Adder.of_the_class),
    "static below": Adder.static_below,
    "static above": Adder.static_above,
    "in a process": in_process,
    "decorated in a process": decorated_in_process,
    "decorated outside in a process": outside_in_process,
    "given as a function": app.activity(executor="process")(given_as_function),
    "static in a process": Named.in_a_class,
}


@app.workflow
async def call(form: str) -> Any:
    return await FORMS[form](1)


@app.workflow
async def call_what_asks() -> str:
    return str(await asks_behind_a_wrapper())


@app.workflow
async def call_what_is_renamed() -> str:
    try:
        return str(await under_another_name(1))
    except ActivityError as error:
        return f"{error.failure.type}: {error.failure.message}"
