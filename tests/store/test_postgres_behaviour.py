"""Tests of workflows that concern the store, run on PostgreSQL as well.

`PERDURE_TEST_WORLDS=postgres make test PYTEST_ARGS=tests/workflows` runs all of them there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest
from engine import World, app, postgres_world

__all__ = ["app"]

WORKFLOWS = Path(__file__).parents[1] / "workflows"


def _tests_of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_on_postgres", WORKFLOWS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


for _name in ("test_continue_as_new",):
    globals().update(
        (name, value) for name, value in vars(_tests_of(_name)).items() if name.startswith("test_")
    )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A world on PostgreSQL alone."""
    async with postgres_world() as made:
        yield made
