"""Definitions that cannot work are refused where they are written, with their name and the remedy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from perdure import App, Channel, RetryPolicy, workflow
from perdure.errors import DefinitionError, UsageError


async def good(x: int) -> int:
    return x


def plain(x: int) -> int:
    return x


async def many(*xs: int) -> None:
    return


async def keywords(**xs: int) -> None:
    return


async def odd_type(x: Callable[[], int]) -> None:
    return


async def odd_result(x: int) -> Callable[[], int]:
    raise AssertionError


async def bad_default(x: int = "one") -> None:
    return


async def unknown_name(x: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
    return


class Thing:
    """Not a function."""


def define_activity(fn: Any = good, **options: Any) -> None:
    App("shop").activity(**options)(fn)


def define_workflow(fn: Any = good, **options: Any) -> None:
    App("shop").workflow(**options)(fn)


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "activity: a class": (lambda: define_activity(Thing), "Thing", "needs a function"),
    "activity: no function": (
        lambda: App("shop").activity("charge"),
        "'charge'",
        "needs a function",
    ),
    "activity: *args": (
        lambda: define_activity(many),
        "activity 'many' takes '*xs'",
        "declare a list parameter",
    ),
    "activity: **kwargs": (
        lambda: define_activity(keywords),
        "takes '**xs'",
        "declare a dict parameter",
    ),
    "activity: a type that is not data": (
        lambda: define_activity(odd_type),
        "argument 'x' of activity 'odd_type'",
        "",
    ),
    "activity: a result that is not data": (
        lambda: define_activity(odd_result),
        "result of activity 'odd_result'",
        "",
    ),
    "activity: a default of another type": (
        lambda: define_activity(bad_default),
        "argument 'x' of activity 'bad_default': its default 'one' cannot be used",
        "Expected `int",
    ),
    "activity: an annotation of no meaning": (
        lambda: define_activity(unknown_name),
        "'unknown_name'",
        "Missing",
    ),
    "activity: executor": (
        lambda: define_activity(executor="gpu"),
        "activity 'good'",
        "must be 'thread' or 'process'",
    ),
    "activity: process for a coroutine": (
        lambda: define_activity(executor="process"),
        "activity 'good'",
        "needs a `def` at module level",
    ),
    "activity: process for a local function": (
        lambda: define_activity(lambda x: x, name="local", executor="process"),
        "activity 'local'",
        "needs a `def` at module level",
    ),
    "activity: negative timeout": (
        lambda: define_activity(timeout=-1),
        "timeout of activity 'good'",
        "must be between 0 and ten years",
    ),
    "activity: timeout of nothing": (
        lambda: define_activity(timeout=float("nan")),
        "timeout of activity 'good'",
        "must be between 0 and ten years",
    ),
    "activity: timeout without end": (
        lambda: define_activity(total_timeout=float("inf")),
        "total_timeout of activity 'good'",
        "must be between 0 and ten years",
    ),
    "activity: timeout in words": (
        lambda: define_activity(start_timeout="5s"),
        "start_timeout of activity 'good'",
        "must be seconds (a number) or a timedelta, got '5s'",
    ),
    "activity: timeout that is a bool": (
        lambda: define_activity(heartbeat_timeout=True),
        "heartbeat_timeout of activity 'good'",
        "must be seconds",
    ),
    "activity: negative timedelta": (
        lambda: define_activity(timeout=timedelta(seconds=-1)),
        "timeout of activity 'good'",
        "must be between 0",
    ),
    "activity: retry of another type": (
        lambda: define_activity(retry=3),
        "activity 'good'",
        "RetryPolicy",
    ),
    "activity: empty queue": (
        lambda: define_activity(queue=""),
        "'' cannot be the name of a queue",
        "use up to 200",
    ),
    "activity: unknown option": (lambda: define_activity(retries=3), "activity 'good'", "retries"),
    "workflow: plain def": (
        lambda: define_workflow(plain),
        "workflow 'plain'",
        "must be an `async def`",
    ),
    "workflow: a class": (lambda: define_workflow(Thing), "Thing", "needs a function"),
    "workflow: *args": (
        lambda: define_workflow(many),
        "workflow 'many' takes '*xs'",
        "declare a list parameter",
    ),
    "workflow: version in words": (
        lambda: define_workflow(version="latest"),
        "'latest' is not a version",
        "use major.minor.patch",
    ),
    "workflow: version of four parts": (
        lambda: define_workflow(version="1.2.3.4"),
        "'1.2.3.4'",
        "use major.minor.patch",
    ),
    "workflow: version that is a bool": (
        lambda: define_workflow(version=True),
        "True is not a version",
        "use major",
    ),
    "workflow: negative version": (
        lambda: define_workflow(version=-1),
        "-1 is not a version",
        "use major",
    ),
    "workflow: on_mismatch": (
        lambda: define_workflow(on_mismatch="ignore"),
        "workflow 'good'",
        "must be 'suspend' or 'fail', got 'ignore'",
    ),
    "workflow: guard": (
        lambda: define_workflow(guard="strict"),
        "workflow 'good'",
        "must be 'error', 'warn' or 'off', got 'strict'",
    ),
    "app: name": (lambda: App(""), "'' cannot be the name of an app", "use up to 200"),
    "app: name of no string": (
        lambda: App(None),
        "None cannot be the name of an app",
        "use up to 200",
    ),
    "app: resources": (
        lambda: App("shop").resources(good),
        "@app.resources",
        "`async def` that yields",
    ),
    "channel: name": (
        lambda: Channel[int](""),
        "'' cannot be the name of a channel",
        "use 1 to 200 printable",
    ),
    "retry: attempts": (
        lambda: RetryPolicy(maximum_attempts=0),
        "RetryPolicy.maximum_attempts",
        "at least 1",
    ),
    "retry: backoff": (
        lambda: RetryPolicy(backoff="random"),
        "RetryPolicy.backoff",
        "'fixed', 'linear'",
    ),
    "retry: coefficient": (
        lambda: RetryPolicy(coefficient=0.5),
        "RetryPolicy.coefficient",
        "between 1 and",
    ),
    "retry: interval": (
        lambda: RetryPolicy(initial_interval=-1),
        "RetryPolicy.initial_interval",
        "between 0 and",
    ),
    "retry: longest interval": (
        lambda: RetryPolicy(maximum_interval=float("inf")),
        "RetryPolicy.maximum_interval",
        "between 0 and",
    ),
    "child: parent_close": (
        lambda: workflow.child(App("shop").workflow(good), parent_close="kill"),
        "parent_close",
        "must be 'cancel', 'terminate' or 'abandon', got 'kill'",
    ),
    "child: version": (
        lambda: workflow.child(App("shop").workflow(good), version="new"),
        "'new' is not a version",
        "use major.minor.patch",
    ),
    "child: not a workflow": (lambda: workflow.child(good), "good", "@app.workflow"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_its_name_and_the_remedy(name: str):
    make, thing, remedy = REFUSED[name]
    with pytest.raises(UsageError) as caught:
        make()
    assert thing in str(caught.value)
    assert remedy in str(caught.value)


BAD_NAMES = ["", " ", "a b", "a\nb", "a\x00b", "x" * 201, "/a", "a//b", "a/", "{}", "ä?"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["activity", "workflow", "app"])
def test_a_name_that_cannot_be_one_is_refused(kind: str, name: str):
    app = App("shop")
    make = {
        "activity": lambda: app.activity(name=name)(good),
        "workflow": lambda: app.workflow(name=name)(good),
        "app": lambda: App(name),
    }[kind]
    with pytest.raises(
        DefinitionError, match=r"cannot be the name of a.*: use up to 200 letters, digits,"
    ) as caught:
        make()
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["", "a\nb", "a\x00b", "x" * 201, "\u202e", None, 7])
def test_a_name_for_people_must_be_printable(name: Any):
    with pytest.raises(
        DefinitionError, match="cannot be the name of a channel: use 1 to 200 printable characters"
    ):
        Channel[int](name)


@pytest.mark.parametrize("kind", ["activity", "workflow"])
def test_a_name_of_our_own_is_refused(kind: str):
    with pytest.raises(
        DefinitionError, match=r"'perdure:mine' cannot be .*: names that begin with 'perdure:' are"
    ):
        getattr(App("shop"), kind)(name="perdure:mine")(good)


def test_a_second_activity_of_a_name_is_refused_and_the_first_stays():
    app = App("shop")
    first = app.activity(good)
    with pytest.raises(
        DefinitionError, match="app 'shop' has an activity 'good' already; give one of them another"
    ):
        app.activity(name="good")(plain)
    assert app.find_activity("good") is first.definition


def test_a_second_workflow_of_a_name_and_version_is_refused_and_the_first_stays():
    app = App("shop")
    first = app.workflow(version=2)(good)
    with pytest.raises(
        DefinitionError,
        match=r"has workflow 'good' version 2.0.0 already; give the new one another",
    ):
        app.workflow(name="good", version="2.0")(odd_free)
    assert app.find_workflow("good", None) is first.definition


async def odd_free() -> None:
    return


def test_including_an_app_with_a_name_twice_is_refused_and_takes_nothing():
    first, second = App("first"), App("second")
    first.activity(good)
    second.activity(good)
    second.workflow(name="late")(odd_free)
    with pytest.raises(
        DefinitionError, match="apps 'first' and 'second' both have an activity 'good'"
    ):
        first.include(second)
    assert first.workflows() == []


def test_including_an_app_with_a_workflow_twice_takes_nothing():
    first, second = App("first"), App("second")
    first.workflow(name="b")(odd_free)
    second.workflow(name="a")(odd_free)
    second.workflow(name="b")(odd_free)
    second.activity(good)
    with pytest.raises(DefinitionError, match="'b'"):
        first.include(second)
    assert (first.workflows(), first.activities()) == ([("b", ["1.0.0"])], [])


def test_pinning_a_version_that_nobody_has_is_refused():
    app = App("shop")
    app.workflow(good)
    with pytest.raises(DefinitionError, match=r"workflow 'good' .*version 7.0.0") as caught:
        app.use_version("good", 7)
    assert "1.0.0" in str(caught.value), "it says which there are"
    with pytest.raises(DefinitionError, match="'unknown'"):
        app.use_version("unknown", 1)


def test_resources_of_two_kinds_are_refused():
    app = App("shop")

    async def one() -> AsyncIterator[int]:
        yield 1

    app.resources(one)
    with pytest.raises(DefinitionError, match="app 'shop' has resources already"):
        app.resources(one)
