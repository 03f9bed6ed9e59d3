"""The standing of a node: whether it starts, runs or drains, and what callers are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from perdure.errors import StoreUnavailable, UsageError


@dataclass(frozen=True, slots=True)
class Standing:
    """How a node stands now. `failure` is why it cannot go on."""

    name: str
    failure: Exception | None
    is_starting: bool
    runs: bool
    is_stopping: bool

    def check_is_at_rest(self, *, has_ended: bool) -> None:
        """Refuse to start a node that runs, or whose store another call is opening or closing.

        Raises:
            UsageError: it is not at rest.
        """
        if self.is_starting:
            msg = f"node {self.name!r} is being started by another call; await that one"
            raise UsageError(msg)
        if self.runs:
            msg = f"node {self.name!r} runs already"
            raise UsageError(msg)
        if not has_ended:
            msg = f"node {self.name!r} is being stopped; await `wait_ended()`, then start it again"
            raise UsageError(msg)

    def refuse_request(self) -> NoReturn:
        """Refuse a request to a node that does not run.

        Raises:
            StoreUnavailable: its store failed.
            UsageError: it was not started, or has stopped.
        """
        if self.failure is not None:
            msg = (
                f"node {self.name!r} has stopped because its store failed: {self.failure}."
                " Start it again when the store is sound"
            )
            raise StoreUnavailable(msg)
        msg = f"node {self.name!r} is not running; start it, or use `async with`"
        raise UsageError(msg)

    def why_not_ready(self) -> list[str]:
        """Why it takes no work now, for people. Empty: nothing here speaks against it."""
        if self.failure is not None:
            return [f"its store failed: {self.failure}"]
        if self.is_starting:
            return ["it starts"]
        if not self.runs:
            return ["it does not run"]
        if self.is_stopping:
            return ["it is draining"]
        return []
