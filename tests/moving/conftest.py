"""These tests share files with others."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from moved_stores import Places

_TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_TESTS / "fixtures"))
# For the random world in which two stores are compared.
sys.path.append(str(_TESTS / "store"))


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[Places]:
    """URLs of stores that are not there yet."""
    from moved_stores import Places

    found = Places(tmp_path)
    yield found
    await found.remove()
