"""The store in memory: the public fake, and the reference that other stores are compared with."""

from __future__ import annotations

from perdure.store.memory.queries import STATUSES
from perdure.store.memory.store import MemoryStore

__all__ = ["STATUSES", "MemoryStore"]
