"""Deploys: definitions that are there when a node starts, and those that are added while it runs.

Each definition is looked at once, for code that replay cannot repeat. Instances that were held for
the lack of a definition are tried again, because the new one may be it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from perdure.errors import WorkflowViolation
from perdure.guard import runtime as guard
from perdure.guard.scan import scan
from perdure.kernel.execution.execution import current_run
from perdure.kernel.loop.loop import running_loop
from perdure.kernel.unit.held import AFTER_DEPLOY
from perdure.node.loop.patience import Patience, Stopped
from perdure.ports.cluster import CODE_MAX
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
    """The guard level of the code that runs now. None: it is no workflow code."""
    run = current_run()
    if run is None:
        return None
    return run.definition.guard


class Checks:
    """Looks at workflow code before it runs, once in all lives of a node."""

    def __init__(self, app: App, node_name: str) -> None:
        """No definition has been looked at."""
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
            findings = _findings(definition)
            if findings and definition.guard == "error":
                refused += findings
                continue  # it is looked at again when the next start is tried
            self._done.add(definition)
            # The scan reads the code. The guard sees its calls while it runs.
            guard.watch(definition.fn)
            for finding in findings:
                ids = {"node": self._node_name, "workflow": definition.name}
                logger.warning("%s", finding, extra=ids)
        if refused:
            places = "\n  ".join(refused)
            msg = (
                "workflow code must be deterministic (guard='warn' or 'off' in @app.workflow lets"
                f" it run):\n  {places}"
            )
            raise WorkflowViolation(msg)


def _findings(definition: WorkflowDefinition) -> list[str]:
    """A line of text for each place that replay cannot repeat."""
    lines: list[str] = []
    for found in scan(definition.fn):
        place = f"{found.file}:{found.line}: {found.rule.code} {found.name}"
        lines.append(f"{place} in workflow {definition.name!r}: {found.remedy}")
    return lines


class Deploys:
    """Releases the instances that wait for definitions."""

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
        self._loop = asyncio.get_running_loop()

    def changed(self) -> None:
        """The definitions have changed. Any thread may say so."""
        # A notebook, and a plugin that is imported on a thread, define beside a running node.
        if running_loop() is self._loop:
            self._begin()
            return
        with suppress(RuntimeError):  # the loop is closed, so the next life tries them
            self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        """Try them soon. Changes that come together are taken as one."""
        if not self._is_trying:
            self._is_trying = True
            self._background.spawn(self._try_held(), "perdure-wake")

    async def _try_held(self) -> None:
        """Try the instances again that are held until a deploy: this may be it."""
        # Here and not at the end: a change that comes from now on needs another round.
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
            ours = [row.id for row in rows if self._ownership.find(row.scope) is not None]
            self._turns.memory.try_again(ours)
            after = page.next
            if after is None:
                return
            await self._turns.memory.loader.room()

    def stop(self) -> None:
        """Try no more."""
        self._patience.stop()


def advertised(app: App, node_name: str) -> tuple[str, ...]:
    """What a node of this name can run, for the others."""
    code = app.code()
    if len(code) > CODE_MAX:
        text = (
            "node %s has %d definitions, of which the others can be told %d at most. So nothing"
            " is handed to it for the sake of its code"
        )
        logger.warning(text, node_name, len(code), CODE_MAX, extra={"node": node_name})
        return ()
    return tuple(code)


def release() -> str:
    """The release of this package that the node runs, for people."""
    from perdure import __version__  # that module imports this one

    return __version__
