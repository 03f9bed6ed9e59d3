"""These tests share files with others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from postgres_stores import Schemas

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))


@pytest.fixture
def schemas() -> Iterator[Schemas]:
    """Schemas of a PostgreSQL server, for stores."""
    # Here, because it starts the server.
    from postgres_stores import Schemas

    found = Schemas()
    yield found
    found.give_back()


@pytest.fixture
def schema(schemas: Schemas) -> str:
    """One of them."""
    return schemas.take()
