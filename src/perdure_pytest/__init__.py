"""The plugin for pytest: fixtures, a mark and options for tests of workflows.

docs/testing.md explains them. The plugin is a package of its own, so that pytest loads it without
`perdure`. A fixture imports `perdure` when a test uses it, and other test runs pay nothing.

The fixtures are plain functions, so they need no plugin for coroutines. Tests that pytest-asyncio
or anyio runs use the nodes with `async with`.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from perdure import App
    from perdure.ports.store import Store
    from perdure.testing import SkippingClock, VirtualNode
    from perdure.testing.crash import Report, Scenario

_MARK = (
    "perdure(start=datetime, patience=seconds, limit=duration): "
    "how the clock of `perdure_clock` is made"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options to the command line of pytest."""
    group = parser.getgroup("perdure")
    group.addoption(
        "--perdure-store",
        choices=("memory", "sqlite"),
        default="memory",
        help="the store of nodes that perdure_node makes: "
        "memory (default), or sqlite, a file for each",
    )
    group.addoption(
        "--perdure-crash-every",
        type=_positive,
        default=1,
        metavar="N",
        help="let perdure_crash crash at each N-th point only (default: each)",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        msg = f"must be a whole number of at least 1, got {text!r}"
        raise ArgumentTypeError(msg)
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark, because `--strict-markers` refuses unknown ones."""
    config.addinivalue_line("markers", _MARK)


@pytest.fixture
def perdure_clock(request: pytest.FixtureRequest) -> SkippingClock:
    """The test's `SkippingClock`, made with the arguments of `@pytest.mark.perdure(...)`.

    `perdure_node` uses the same clock.
    """
    from perdure.errors import UsageError
    from perdure.testing import SkippingClock

    mark = request.node.get_closest_marker("perdure")
    if mark is None:
        return SkippingClock()
    try:
        return SkippingClock(*mark.args, **mark.kwargs)
    except (TypeError, UsageError) as error:
        pytest.fail(
            f"@pytest.mark.perdure of {request.node.nodeid}: {error}; it is {_MARK}", pytrace=False
        )


@pytest.fixture
def perdure_store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a SQLite file in the test's `tmp_path`."""
    return f"sqlite:///{request.getfixturevalue('tmp_path')}/perdure.db"


@pytest.fixture
def perdure_node(
    request: pytest.FixtureRequest, perdure_clock: SkippingClock
) -> Iterator[Callable[..., VirtualNode]]:
    """A function that makes nodes, as `perdure.testing.node` does.

    The nodes run by `perdure_clock`, on the kind of store that `--perdure-store` names:
    `async with perdure_node(app, activities={charge: fake}) as node:`.
    """
    from perdure.testing import node

    made: list[VirtualNode] = []

    def make(app: App, store: str | Store | None = None, **options: Any) -> VirtualNode:
        if store is None:
            store = "memory://"
            if request.config.getoption("--perdure-store") == "sqlite":
                # `tmp_path` is asked for here only, so that tests on memory make no folder.
                store = f"sqlite:///{request.getfixturevalue('tmp_path')}/node-{len(made) + 1}.db"
        options.setdefault("clock", perdure_clock)
        made.append(node(app, store, **options))
        return made[-1]

    yield make
    for virtual in made:
        if virtual.is_running:
            pytest.fail(
                f"the test left a node of app {virtual.app.name!r} running; "
                "use `async with perdure_node(app) as node:`",
                pytrace=False,
            )


@pytest.fixture
def perdure_crash(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """A function that crashes a scenario at each point: `perdure_crash(Scenario(app, script))`.

    `url=` names another store than memory, for example `"sqlite:///{folder}/x.db"`.
    `perdure.testing.crash` explains the points.
    """
    from perdure.testing.crash import crash_in_process

    every: int = request.config.getoption("--perdure-crash-every") or 1

    def crash(scenario: Scenario, *, url: str = "memory://") -> Report:
        if _a_loop_runs():
            pytest.fail(
                "perdure_crash runs event loops of its own: call it in a plain `def` test",
                pytrace=False,
            )
        return crash_in_process(scenario, url=url, every=every)

    return crash


def _a_loop_runs() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
