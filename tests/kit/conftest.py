"""What the tests of the kit share: an app, and a node that runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from kit_shop import make_app

from perdure import App, testing
from perdure.testing import VirtualNode


@pytest.fixture
def app() -> App:
    return make_app()


@pytest.fixture(params=["memory://", "sqlite://"])
async def node(request: pytest.FixtureRequest, app: App) -> AsyncIterator[VirtualNode]:
    """A node of the kit, on each kind of store."""
    async with testing.node(app, str(request.param)) as node:
        yield node
