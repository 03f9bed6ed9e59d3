"""Fakes: functions that stand in for activities while a test runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from perdure.activity import Activity
from perdure.app import App
from perdure.errors import UsageError
from perdure.kernel.data.definition import ActivityDefinition


class FakedApp(App):
    """An app with fakes for some of its activities.

    All other definitions are shared with the real app, also those that are registered later.
    """

    # Slots stand outside of `__dict__`, which belongs to the real app.
    __slots__ = ("_fakes",)

    def __init__(self, app: App) -> None:
        """See `app` with no fakes yet."""
        self.__dict__ = app.__dict__  # one registry, seen in two ways
        self._fakes: dict[str, ActivityDefinition] = {}

    def find_activity(self, name: str) -> ActivityDefinition | None:
        """The fake of this name, or the activity itself."""
        return self._fakes.get(name) or super().find_activity(name)

    def _registered(self, name: object) -> ActivityDefinition | None:
        if isinstance(name, str):
            return super().find_activity(name)
        return None

    def replace(self, activity: Activity[..., Any] | str, fake: Callable[..., Any]) -> None:
        """Run `fake` where `activity` would run, from its next attempt on.

        Raises:
            UsageError: the app does not have the activity, or the fake cannot be called as it is.
        """
        if isinstance(activity, Activity):
            name = activity.name
        else:
            name = activity
        real = self._registered(name)
        if real is None:
            known = ", ".join(self.activities()) or "none"
            msg = f"app {self.name!r} has no activity {name!r} to replace; it has {known}"
            raise UsageError(msg)
        if isinstance(activity, Activity) and activity.definition is not real:
            msg = (
                f"{activity!r} is another app's: "
                f"the one that app {self.name!r} has under this name is not it"
            )
            raise UsageError(msg)
        _check_call(real, fake)
        self._fakes[name] = replace(real, fn=_called(fake), is_async=True, executor="thread")


def _check_call(real: ActivityDefinition, fake: Callable[..., Any]) -> None:
    """Refuse a fake that cannot take the arguments of the activity."""
    if not _is_callable(fake):
        msg = (
            f"the fake for activity {real.name!r} must be a function, got {fake!r}; "
            f"`lambda ...: {fake!r}` is one"
        )
        raise UsageError(msg)
    parameters = inspect.signature(real.fn).parameters.values()
    named = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    positional = [p for p in parameters if p.name not in named]
    try:
        signature = inspect.signature(fake)
    except ValueError:
        return  # some functions in C do not tell their parameters
    try:
        # The parameters stand for arguments: only their number and their names matter.
        signature.bind(*positional, **named)
    except TypeError as error:
        names = [p.name for p in positional]
        names += [f"{name}=" for name in named]
        msg = (
            f"the fake for activity {real.name!r} cannot be called as "
            f"{real.name}({', '.join(names)}): {error}; give it the same parameters"
        )
        raise UsageError(msg) from None


def _is_callable(value: object) -> bool:
    return callable(value)


def _called(fake: Callable[..., Any]) -> Callable[..., Any]:
    """The fake as an `async def`.

    A `def` runs on the loop, not on a thread, because fakes are quick and run in one order there.
    """

    async def call(*args: Any, **kwargs: Any) -> Any:
        result = fake(*args, **kwargs)
        if inspect.isawaitable(result):
            return await result
        return result

    return call
