"""The run that the calling code belongs to."""

from __future__ import annotations

from perdure.errors import UsageError
from perdure.kernel.execution.execution import Execution, current_run


def caller(what: str) -> Execution:
    """The run whose code is calling `workflow.<what>`.

    Raises:
        UsageError: no workflow is running here.
    """
    run = current_run()
    if run is None:
        msg = f"workflow.{what} is for workflow code; here no workflow is running"
        raise UsageError(msg)
    return run
