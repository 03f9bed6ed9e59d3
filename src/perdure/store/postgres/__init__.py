"""The store in a PostgreSQL database, which several nodes share."""

from __future__ import annotations

from perdure.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
