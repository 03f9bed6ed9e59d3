"""The store in memory: the public fake, and the reference that other stores are compared with."""

from __future__ import annotations

from perdure.store.memory.store import STATUSES, MemoryStore

__all__ = ["STATUSES", "MemoryStore"]
