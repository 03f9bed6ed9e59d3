"""The plugin for pytest: fixtures, a mark and options for tests of workflows. docs/testing.md explains them.

It is a package of its own so that pytest can load it without `perdure`, which is only imported when a test asks for a
fixture: a run without one pays nothing. It needs no plugin for coroutines: its fixtures are plain functions, and what
they give is used with `async with` by tests that pytest-asyncio or anyio runs.
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

_MARK = "perdure(start=datetime, patience=seconds, limit=duration): how the clock of `perdure_clock` is made"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command line."""
    group = parser.getgroup("perdure")
    group.addoption(
        "--perdure-store",
        choices=("memory", "sqlite"),
        default="memory",
        help="the store of nodes that perdure_node makes: memory (default), or sqlite, a file for each",
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
    """The mark is known."""
    config.addinivalue_line("markers", _MARK)


@pytest.fixture
def perdure_clock(request: pytest.FixtureRequest) -> SkippingClock:
    """The test's `SkippingClock`, as `@pytest.mark.perdure(...)` wants it; `perdure_node` uses it."""
    from perdure.errors import UsageError
    from perdure.testing import SkippingClock

    mark = request.node.get_closest_marker("perdure")
    try:
        return SkippingClock(*mark.args, **mark.kwargs) if mark is not None else SkippingClock()
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
    """Makes nodes, as `perdure.testing.node` does, that run by `perdure_clock` and on the store that `--perdure-store`
    names: `async with perdure_node(app, activities={charge: fake}) as node:`.
    """
    from perdure.testing import node

    made: list[VirtualNode] = []

    def make(app: App, store: str | Store | None = None, **options: Any) -> VirtualNode:
        if store is None and request.config.getoption("--perdure-store") == "sqlite":
            store = f"sqlite:///{request.getfixturevalue('tmp_path')}/node-{len(made) + 1}.db"
        options.setdefault("clock", perdure_clock)
        made.append(node(app, store if store is not None else "memory://", **options))
        return made[-1]

    yield make
    left = [one.app.name for one in made if one.is_running]
    if left:
        pytest.fail(
            f"the test left a node of app {left[0]!r} running; use `async with perdure_node(app) as node:`",
            pytrace=False,
        )


@pytest.fixture
def perdure_crash(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """`perdure_crash(Scenario(app, script))` crashes a scenario at each point; see `perdure.testing.crash`. With `url=`
    the points of another store than memory, for example `"sqlite:///{folder}/x.db"`.
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
