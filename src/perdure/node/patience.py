"""Patience: asking a store until it answers, where giving up would lose something."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger("perdure.node")

P = ParamSpec("P")
T = TypeVar("T")

_FIRST_S, _LONGEST_S = 0.1, 2.0
"""How long to wait before the store is asked again: twice as long each time."""


class Stopped(Exception):
    """The node stops, so nobody needs the answer."""


class Patience:
    """Asks on behalf of a node until the node stops."""

    def __init__(self, node_name: str) -> None:
        """The name is for log records."""
        self._node_name = node_name
        self._over = False

    def stop(self) -> None:
        """Ask no more."""
        self._over = True

    async def ask(self, ask: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Ask until there is an answer.

        Raises:
            Stopped: the node stops.
        """
        delay_s = _FIRST_S
        while True:
            try:
                return await ask(*args, **kwargs)
            except Exception as error:
                if self._over:
                    raise Stopped from error
                known = isinstance(error, StoreUnavailable)
                text = "the store did not answer, and is asked again in %.1f s: %s"
                logger.warning(
                    text,
                    delay_s,
                    error,
                    exc_info=None if known else error,
                    extra={"node": self._node_name},
                )
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_S)
