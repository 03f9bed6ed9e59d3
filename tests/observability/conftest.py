"""These tests run apps in a world of their own, and look at what a meter provider or a log is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

from engine import app, world
from meters import Meters

__all__ = ["app", "meters", "world"]


@pytest.fixture
def meters() -> Meters:
    """A meter provider that remembers."""
    return Meters()
