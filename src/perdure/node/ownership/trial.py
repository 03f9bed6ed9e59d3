"""The trial of a node: one search for suspects works at a time, so that a crash names its cause."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

_LOOK_S = 0.02
"""How often a search that waits looks whether the one before it has ended."""


class Trial:
    """Lets searches work one after the other. All of them belong to one node."""

    def __init__(self) -> None:
        """No search works."""
        self._is_taken = False
        self._is_long = False

    @asynccontextmanager
    async def taken(self, when_long: Callable[[], None]) -> AsyncGenerator[None]:
        """Work alone. `when_long` is called, perhaps several times, while another takes long."""
        # A loop and no lock: what waits has to hear that the other one takes long after all.
        while self._is_taken:
            if self._is_long:
                when_long()
            await asyncio.sleep(_LOOK_S)
        self._is_taken = True
        try:
            yield
        finally:
            self._is_taken = False
            self._is_long = False

    def take_long(self) -> None:
        """The search that works now takes long from here on."""
        self._is_long = True
