"""The store in a SQLite file."""

from __future__ import annotations

from perdure.store.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
