"""An app is a registry: what is in it can be listed, taken over by another app, and resolved by name and version."""

from __future__ import annotations

from typing import Any

import pytest
from engine import World

from perdure import App, RetryPolicy, workflow
from perdure.errors import DefinitionError


def with_workflow(name: str, *versions: str, app_name: str = "part") -> App:
    """An app with one workflow in these versions, which return their version."""
    app = App(app_name)
    for version in versions:

        @app.workflow(name=name, version=version)
        async def numbered() -> str:
            return workflow.info().version

    return app


def with_activity(name: str, app_name: str = "part") -> App:
    """An app with one activity, which returns its app's name."""
    app = App(app_name)

    @app.activity(name=name)
    async def named() -> str:
        return app_name

    return app


def test_an_empty_app_resolves_nothing() -> None:
    app = App("empty")
    assert (app.workflows(), app.activities(), app.definitions()) == ([], [], [])
    assert app.find_workflow("x", None) is None
    assert app.find_workflow("x", "1.0.0") is None
    assert app.find_activity("x") is None


def test_what_is_there_is_listed_sorted() -> None:
    app = with_workflow("ship", "2.0.0", "1.0.0", "1.10.0", "1.9.0")
    app.include(with_workflow("bill", "1.0.0"))
    for name in ("z", "a"):
        app.include(with_activity(name))
    assert app.workflows() == [("bill", ["1.0.0"]), ("ship", ["1.0.0", "1.9.0", "1.10.0", "2.0.0"])]
    assert app.activities() == ["a", "z"]
    assert len(app.definitions()) == 5
    assert app.find_activity("a") is not None


def test_the_latest_is_found_without_a_version_and_each_with_it() -> None:
    app = with_workflow("ship", "1.0.0", "2.0.0", "1.5.0")
    for asked, found in ((None, "2.0.0"), ("1.0.0", "1.0.0"), ("1.5.0", "1.5.0")):
        definition = app.find_workflow("ship", asked)
        assert definition is not None
        assert definition.version == found
    assert app.find_workflow("ship", "3.0.0") is None


def test_a_version_that_is_lower_than_the_latest_may_come_later_and_is_not_the_latest() -> None:
    app = with_workflow("ship", "2.0.0")
    app.include(with_workflow("ship", "1.0.0"))
    latest = app.find_workflow("ship", None)
    assert latest is not None
    assert latest.version == "2.0.0"


def test_versions_are_pinned_per_name() -> None:
    app = with_workflow("ship", "1.0.0", "2.0.0")
    app.include(with_workflow("bill", "1.0.0", "2.0.0"))
    app.use_version("ship", "1.0.0")
    found = {name: app.find_workflow(name, None) for name in ("ship", "bill")}
    assert {name: d.version for name, d in found.items() if d is not None} == {
        "ship": "1.0.0",
        "bill": "2.0.0",
    }
    with pytest.raises(
        DefinitionError, match=r"no workflow 'ship' version 9\.0\.0; it has 1\.0\.0, 2\.0\.0"
    ):
        app.use_version("ship", 9)


async def test_an_included_app_runs_with_the_others_definitions(world: World) -> None:
    """Libraries give apps; the program puts them together, and names say whose they are."""
    library, program = App("payments"), App("shop")

    @library.activity(name="payments.charge")
    async def charge(cents: int) -> str:
        return f"charged {cents}"

    @library.workflow(name="payments.pay")
    async def pay(cents: int) -> str:
        return await charge(cents)

    @program.workflow
    async def checkout() -> list[str]:
        return [await pay(5), await charge(7)]

    program.include(library)
    async with world.node(program) as node:
        assert await node.client.workflow(checkout, id="c").run() == ["charged 5", "charged 7"]
        assert await node.client.workflow("payments.pay", id="p").run(3) == "charged 3"


def test_several_apps_are_taken_over_one_after_the_other() -> None:
    app = App("all")
    for i in range(3):
        app.include(with_workflow(f"w{i}", "1.0.0"))
        app.include(with_activity(f"a{i}"))
    assert [name for name, _ in app.workflows()] == ["w0", "w1", "w2"]
    assert app.activities() == ["a0", "a1", "a2"]


def test_a_pin_of_one_app_does_not_reach_another() -> None:
    first, second = App("first"), App("second")
    for app in (first, second):
        app.include(with_workflow("ship", "1.0.0", "2.0.0"))
    first.use_version("ship", 1)
    found = second.find_workflow("ship", None)
    assert found is not None
    assert found.version == "2.0.0"


@pytest.mark.parametrize("kind", ["activity", "workflow"])
def test_names_of_ours_cannot_be_taken(kind: str) -> None:
    app = App("test")

    async def own() -> None:
        pass

    decorate: Any = app.activity if kind == "activity" else app.workflow
    with pytest.raises(DefinitionError, match="'perdure:"):
        decorate(name="perdure:activity")(own)


def test_an_activity_keeps_its_options_and_name() -> None:
    app = App("test")

    @app.activity(name="shop.charge", retry=RetryPolicy(2), timeout=5, queue="cards")
    async def charge() -> None:
        pass

    definition = app.find_activity("shop.charge")
    assert definition is not None
    assert definition.options.queue == "cards"
    assert definition.options.timeout_ms == 5_000
    assert definition.options.retry.maximum_attempts == 2
    assert charge.name == "shop.charge"


async def test_a_workflow_sees_what_is_known_about_it(world: World, app: App) -> None:
    @app.workflow(version="1.2.3")
    async def curious() -> list[Any]:
        info = workflow.info()
        return [info.id, info.execution, info.workflow, info.version, info.parent]

    async with world.node(app) as node:
        assert await node.client.workflow(curious, id="c").run() == [
            "c",
            1,
            "curious",
            "1.2.3",
            None,
        ]
