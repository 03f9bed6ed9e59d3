"""The run that the calling code belongs to."""

from __future__ import annotations

from perdure.errors import UsageError
from perdure.kernel.execution.execution import Execution
from perdure.kernel.loop.loop import WorkflowLoop, running_loop


def caller(what: str) -> Execution:
    """The run whose code is calling `workflow.<what>`.

    Raises:
        UsageError: no workflow is running here.
    """
    # `current_run`, written out: each command of a workflow comes by here.
    loop = running_loop()
    run: object = None
    if type(loop) is WorkflowLoop:
        run = loop.timers
    if not isinstance(run, Execution):
        msg = f"workflow.{what} is for workflow code; here no workflow is running"
        raise UsageError(msg)
    return run
