"""These tests run apps in worlds of their own: in memory, or where the store matters in a SQLite file."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure import App
from perdure.store.memory import MemoryStore

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

from engine import World


@pytest.fixture
def app() -> App:
    """An app of the test's own."""
    return App("test")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A store in memory that outlives its nodes."""
    async with MemoryStore() as store:
        yield World(store)


@pytest.fixture
def file_world(tmp_path: Path) -> World:
    """A SQLite file, opened anew by each node."""
    return World(f"sqlite:///{tmp_path}/x.db")
