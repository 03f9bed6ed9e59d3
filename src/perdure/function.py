"""The functions of definitions: their names, their kinds, and the remedy where one cannot be used.

Many things can be called in Python: functions, decorated ones, methods, partials, objects. An
activity can be any of them whose name and kind are known when it is defined. All others are refused
there, because the error of a call would come late and tell little.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, cast

from perdure.errors import DefinitionError


def function_of(given: object, kind: str) -> Callable[..., Any]:
    """What a decorator was given, if it can be called as it is. `kind` is "activity" or "workflow".

    Raises:
        DefinitionError: with the remedy.
    """
    if isinstance(given, staticmethod):
        given = cast("staticmethod[..., Any]", given).__func__
    if isinstance(given, classmethod):
        msg = (
            f"@app.{kind} needs a function, got a classmethod; give it the bound method behind the "
            f"class: app.{kind}(Class.method)"
        )
        raise DefinitionError(msg)
    # A class is callable, too, but a call of it makes an object, which is no data.
    if not callable(given) or inspect.isclass(written(given)):
        msg = f"@app.{kind} needs a function, got {given!r:.100}"
        raise DefinitionError(msg)
    _check_has_no_self(given, kind)
    if inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given):
        msg = f"{kind} {name_of(given, kind)!r} is a generator, and has one result; return a list"
        raise DefinitionError(msg)
    return given


def _check_has_no_self(fn: Callable[..., Any], kind: str) -> None:
    """Refuse a function of a class that nothing binds to an object."""
    inner = inspect.unwrap(fn)
    if inspect.ismethod(fn) or not inspect.isfunction(inner):
        return
    owner, _, name = inner.__qualname__.rpartition("<locals>.")[2].rpartition(".")
    first = next(iter(inspect.signature(inner).parameters), "")
    if owner and first in ("self", "cls"):
        msg = (
            f"{kind} {name!r} is a method of {owner}, and a call of it would give no {first!r}; "
            f"give the method of an object instead, {name} = app.{kind}({owner}(...).{name}), or "
            "make it a function"
        )
        raise DefinitionError(msg)


def name_of(fn: Callable[..., Any], kind: str) -> str:
    """The name of a function.

    Raises:
        DefinitionError: it is a partial or an object, which have none. The name is kept in
            journals, so none is made up.
    """
    name = getattr(fn, "__name__", None)
    if name is None:
        msg = f'{fn!r:.100} has no name of its own; give it one: @app.{kind}(name="...")'
        raise DefinitionError(msg)
    return str(name)


def written(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it was written, without the arguments that a partial gives."""
    inner: Any = fn
    while isinstance(inner, functools.partial):
        inner = cast("functools.partial[object]", inner).func
    return cast("Callable[..., Any]", inner)


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether a call gives a coroutine. An object is asked by its class."""
    fn = written(fn)
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


def wraps_async(fn: Callable[..., Any]) -> bool:
    """Whether it is a `def` around an `async def`, as many decorators make it.

    A call may hand the coroutine on, or run it to its end. Only the call tells.
    """
    return not is_async(fn) and is_async(inspect.unwrap(written(fn)))


def check_importable(fn: Callable[..., Any], name: str) -> None:
    """Refuse a function that another process cannot import by its place, or cannot run.

    Raises:
        DefinitionError: with the remedy.
    """
    place = getattr(fn, "__qualname__", "<locals>")  # objects and partials have none
    is_found = "<" not in place and not inspect.ismethod(fn)
    if not is_found or is_async(fn) or wraps_async(fn):
        msg = (
            f"activity {name!r}: executor='process' needs a `def` at module level, "
            "which the other process can import"
        )
        raise DefinitionError(msg)
    if fn.__module__ == "__main__" and not _is_main_importable():
        msg = (
            f"activity {name!r}: executor='process' needs a module that the other process can "
            "import, and that is neither `__main__.py` nor an interactive session; move the "
            "function to a module of its own"
        )
        raise DefinitionError(msg)


def _is_main_importable() -> bool:
    """Whether `multiprocessing` imports the program itself in its processes."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is None:
        return getattr(main, "__file__", None) is not None
    # `__main__.py` of a package seldom asks for its name, so it is never imported.
    return not f".{spec.name}".endswith(".__main__")
