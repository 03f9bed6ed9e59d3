"""The kinds of units that a node knows, and how each is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.kernel.data.message import Start
from perdure.kernel.unit.kinds import WORKFLOW, Kinds
from perdure.kernel.unit.workflow_unit import WorkflowUnit

if TYPE_CHECKING:
    from perdure.app import App
    from perdure.kernel.data.limits import Limits
    from perdure.node.ownership.ownership import Ownership
    from perdure.node.queues.routes import Routes
    from perdure.ports.store import StoreInfo


def kinds_of(
    app: App, limits: Limits, info: StoreInfo, routes: Routes, ownership: Ownership
) -> Kinds:
    """The kinds of a node that runs this app."""
    is_elsewhere = None
    if not ownership.is_alone:
        is_elsewhere = ownership.is_elsewhere

    def workflow(unit: str) -> WorkflowUnit:
        return WorkflowUnit(
            unit,
            app,
            limits,
            shards=info.shards,
            dedupe_ms=info.dedupe_ms,
            is_queued=routes.is_queued,
            is_elsewhere=is_elsewhere,
        )

    return Kinds({WORKFLOW: workflow}, {Start: WORKFLOW})
