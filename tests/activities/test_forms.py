"""Whatever can be called can be an activity, or is refused where it is defined."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import forms
import pytest

from perdure import App, Node, NodeOptions
from perdure.errors import DefinitionError


@pytest.fixture(scope="module")
def options() -> NodeOptions:
    return NodeOptions(processes=1, stop_ms=10)


@pytest.fixture
async def node(options: NodeOptions) -> AsyncIterator[Node]:
    async with forms.app.node("memory://", options=options) as running:
        yield running


@pytest.mark.parametrize("form", forms.FORMS)
async def test_it_runs(node: Node, form: str) -> None:
    assert await node.client.workflow(forms.call, id="f").run(form) == 3
    assert await forms.FORMS[form](1) == 3, "outside of a workflow it is the plain function"


async def test_a_coroutine_that_a_wrapper_hands_on_belongs_to_the_attempt(node: Node) -> None:
    name = await node.client.workflow(forms.call_what_asks, id="a").run()
    assert name == "asks_behind_a_wrapper"


async def test_a_name_that_is_gone_is_named(node: Node) -> None:
    ended = await node.client.workflow(forms.call_what_is_renamed, id="r").run()
    assert ended.startswith(
        "DefinitionError: the process of activity 'renamed' finds no forms.renamed"
    )


def test_it_shows_as_what_it_is() -> None:
    shown = forms.FORMS["partial by name"]
    assert (shown.name, shown.__name__, shown.__module__) == ("plus2", "add", "forms")
    assert forms.FORMS["object"].__doc__ == "An object that can be called."


# ---------------------------------------------------------------- refused


def _class_with_method(**options: Any) -> None:
    app = App("a")

    class Mailer:
        @app.activity(**options)
        async def send(self, to: str) -> str:
            return to


def _class_with_decorated_method() -> None:
    app = App("a")

    class Mailer:
        @app.activity
        @forms.counted
        def send(self, to: str) -> str:
            return to


def _class_with_class_method_below() -> None:
    app = App("a")

    class Mailer:
        @classmethod
        @app.activity
        async def send(cls, to: str) -> str:
            return to


def _class_with_class_method_above() -> None:
    app = App("a")

    class Mailer:
        @app.activity
        @classmethod
        async def send(cls, to: str) -> str:
            return to


def _class_with_workflow() -> None:
    app = App("a")

    class Orders:
        @app.workflow
        async def order(self, number: int) -> int:
            return number


def numbers(count: int) -> Iterator[int]:
    yield count


async def later_numbers(count: int) -> AsyncIterator[int]:
    yield count


def _in_process(fn: Any) -> Callable[[], Any]:
    return lambda: App("a").activity(name="x", executor="process")(fn)


A_METHOD = "activity 'send' is a method of Mailer, and a call of it would give no"
NOT_IMPORTABLE = "activity 'x': executor='process' needs a `def` at module level"

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a method": (_class_with_method, f"{A_METHOD} 'self'; give the method of an object instead"),
    "a method with options": (lambda: _class_with_method(timeout=5), A_METHOD),
    "a method in a process": (lambda: _class_with_method(executor="process"), A_METHOD),
    "a decorated method": (_class_with_decorated_method, A_METHOD),
    "a function of a class": (lambda: App("a").activity(forms.Adder.method), "a method of Adder"),
    "a class method, decorated above": (_class_with_class_method_below, f"{A_METHOD} 'cls'"),
    "a class method, decorated below": (_class_with_class_method_above, "give it the bound method"),
    "a workflow in a class": (_class_with_workflow, "workflow 'order' is a method of Orders"),
    "a partial without a name": (
        lambda: App("a").activity(functools.partial(forms.add, b=2)),
        'has no name of its own; give it one: @app.activity(name="...")',
    ),
    "a partial of a class": (
        lambda: App("a").activity(name="x")(functools.partial(forms.Adder, 2)),
        "@app.activity needs a function",
    ),
    "an object without a name": (lambda: App("a").activity(forms.adder), "has no name of its own"),
    "a lambda without a name": (
        lambda: App("a").activity(lambda: 1),
        "'<lambda>' cannot be the name",
    ),
    "a generator": (lambda: App("a").activity(numbers), "is a generator, and has one result"),
    "an async generator": (lambda: App("a").activity(later_numbers), "return a list"),
    "an activity": (
        lambda: App("a").activity(forms.in_process),
        "'in_process' is defined already; include its app, or give its function",
    ),
    "a workflow as an activity": (
        lambda: App("a").activity(forms.call),
        "'call' is defined already",
    ),
    "a partial as a workflow": (
        lambda: App("a").workflow(name="w")(functools.partial(forms.add, b=2)),
        "workflow 'w' must be an `async def`",
    ),
    "an object as a workflow": (
        lambda: App("a").workflow(name="w")(forms.adder),
        "workflow 'w' must be an `async def`",
    ),
    "a partial as a workflow, without a name": (
        lambda: App("a").workflow(functools.partial(forms.add, b=2)),
        "has no name of its own",
    ),
    "a number as a workflow": (lambda: App("a").workflow(5), "@app.workflow needs a function"),
    "a partial with an argument that is no data": (
        lambda: App("a").activity(name="x")(functools.partial(forms.add, b=object())),
        "argument 'b' of activity 'x': its default",
    ),
    "in a process: a partial": (
        _in_process(functools.partial(forms.add_plainly, 2)),
        NOT_IMPORTABLE,
    ),
    "in a process: an object": (_in_process(forms.PlainAdder()), NOT_IMPORTABLE),
    "in a process: a method": (_in_process(forms.adder.plain_method), NOT_IMPORTABLE),
    "in a process: a class method": (_in_process(forms.Adder.of_the_class), NOT_IMPORTABLE),
    "in a process: a lambda": (_in_process(lambda: 1), NOT_IMPORTABLE),
    "in a process: an async def": (_in_process(forms.add), NOT_IMPORTABLE),
    "in a process: a wrapped async def": (_in_process(forms.counted(forms.add)), NOT_IMPORTABLE),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_where_it_is_defined(what: str) -> None:
    define, text = REFUSED[what]
    with pytest.raises(DefinitionError) as refused:
        define()
    assert text in str(refused.value)


def test_a_refusal_leaves_nothing_behind() -> None:
    app = App("a")
    for what in (functools.partial(forms.add, b=object()), forms.Adder.method, numbers):
        with pytest.raises(DefinitionError):
            app.activity(name="x")(what)
    assert app.activities() == []


PROGRAM = """
import asyncio
from perdure import App
app = App("m")
@app.activity(executor="process")
def crunch() -> int:
    return 7
@app.workflow
async def calling() -> int:
    return await crunch()
async def main():
    async with app.node("memory://") as node:
        print(await node.client.workflow(calling, id="c").run())
if __name__ == "__main__":
    asyncio.run(main())
"""
NO_MODULE = "move the function to a module of its own"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["program.py"], "7"),
        (["-m", "program"], "7"),
        (["-m", "package"], NO_MODULE),
        (["package"], NO_MODULE),
        (["-c", PROGRAM], NO_MODULE),
    ],
    ids=["file", "module", "package", "folder", "text"],
)
def test_the_program_itself(tmp_path: Path, arguments: list[str], expected: str) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(PROGRAM)
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert expected in done.stdout + done.stderr
