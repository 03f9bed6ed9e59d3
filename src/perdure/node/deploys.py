"""Deploys: definitions that are there when a node starts, and those that are added while it runs.

Workflow code is looked at for what replay cannot repeat, once per definition. What was held for the
lack of a definition is tried again, because the new one may be it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from perdure.errors import WorkflowViolation
from perdure.guard import runtime as guard
from perdure.guard.scan import scan
from perdure.kernel.execution.execution import current_run
from perdure.kernel.unit.held import AFTER_DEPLOY
from perdure.node.loop.patience import Patience, Stopped
from perdure.ports.store import Units

if TYPE_CHECKING:
    from perdure.app import App
    from perdure.kernel.data.definition import WorkflowDefinition
    from perdure.node.background import Background
    from perdure.node.loop.turns import Turns
    from perdure.node.options import NodeOptions
    from perdure.node.ownership.ownership import Ownership

logger = logging.getLogger("perdure.node")


def guard_level() -> guard.GuardLevel | None:
    """How the code that runs now wants to be guarded. None: it is no workflow code."""
    run = current_run()
    return run.definition.guard if run is not None else None


class Checks:
    """Looks at workflow code before it runs. The lives of a node share what was looked at."""

    def __init__(self, app: App, node_name: str) -> None:
        """Nothing was looked at."""
        self._app = app
        self._node_name = node_name
        self._done: set[WorkflowDefinition] = set()

    def check(self) -> None:
        """Look at the definitions that are new.

        Raises:
            WorkflowViolation: naming each place, for definitions with `guard="error"`.
        """
        refused: list[str] = []
        for definition in self._app.definitions():
            if definition in self._done or definition.guard == "off":
                continue
            findings = [
                f"{f.file}:{f.line}: {f.rule.code} {f.name} in workflow {definition.name!r}:"
                f" {f.remedy}"
                for f in scan(definition.fn)
            ]
            if findings and definition.guard == "error":
                refused += findings
                continue  # it is looked at again when the next start is tried
            self._done.add(definition)
            guard.watch(definition.fn)
            for finding in findings:
                ids = {"node": self._node_name, "workflow": definition.name}
                logger.warning("%s", finding, extra=ids)
        if refused:
            places = "\n  ".join(refused)
            msg = (
                "workflow code must be deterministic (guard='warn' or 'off' in @app.workflow lets it"
                f" run):\n  {places}"
            )
            raise WorkflowViolation(msg)


class Deploys:
    """Releases what waits for definitions."""

    def __init__(
        self,
        turns: Turns,
        ownership: Ownership,
        options: NodeOptions,
        background: Background,
    ) -> None:
        """Nothing is tried yet."""
        self._turns = turns
        self._ownership = ownership
        self._background = background
        self._patience = Patience(turns.node_name, options.store_retry_ms)
        self._is_trying = False

    def changed(self) -> None:
        """There may be what instances wait for. Changes that come together are one."""
        if not self._is_trying:
            self._is_trying = True
            self._background.spawn(self._try_held(), "perdure-wake")

    async def _try_held(self) -> None:
        """Try again what is held until a deploy: this may be it."""
        self._is_trying = False
        self._turns.memory.definitions_changed()
        after: str | None = None
        while True:
            held = Units(statuses=("suspended",), reasons=AFTER_DEPLOY, after=after)
            try:
                page = await self._patience.ask(self._turns.store.query, held)
            except Stopped:
                return  # the next start tries them
            rows = [view.row for view in page.items]
            self._turns.memory.try_again(
                row.id for row in rows if self._ownership.find(row.scope) is not None
            )
            after = page.next
            if after is None:
                return
            await self._turns.memory.loader.room()

    def stop(self) -> None:
        """Try no more."""
        self._patience.stop()
