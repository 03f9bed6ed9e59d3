"""These tests run apps in a world of their own, and ask its nodes over a real port."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

from engine import app, world

__all__ = ["app", "world"]
