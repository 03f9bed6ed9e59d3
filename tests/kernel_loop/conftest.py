"""The driver of units is shared with the proof of determinism. What a test leaves in memory is disposed of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "determinism"))


@pytest.fixture(autouse=True)
def _disposed() -> Iterator[None]:
    from drive import Drive

    yield
    for drive in list(Drive.live):
        drive.unit.close_memory()
