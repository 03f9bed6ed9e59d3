"""What a test leaves in memory is disposed of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _disposed() -> Iterator[None]:
    from drive import Drive

    yield
    for drive in list(Drive.live):
        drive.unit.close_memory()
