"""Calls whose `await` was forgotten, which a run reports when it ends.

`charge(order)` without an `await` schedules the activity. The workflow goes on without its answer,
and the end of the run cancels it if it still works. No type or test need show that, so it is a
warning with the line of the call.

Code that returns normally has awaited all that it wanted. Code that fails or is cancelled may not
have come to the `await`, so nothing is reported then.

A call notes only whether it was awaited. Its line is looked up in the workflow's code when there is
something to report, because to ask for the line of each call would make calls slower by a quarter.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from perdure.kernel.loop.call import ActivityCall, Call, ChildCall

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perdure.kernel.execution.execution import Execution

logger = logging.getLogger("perdure.workflow")


def report_forgotten(run: Execution, unheard: Iterable[Call]) -> None:
    """Log the calls that were never awaited, unless the run has failed or is in replay."""
    main = run.main
    if run.journal is not None or main is None or main.cancelled():
        return
    # A continuation is no failure, but leaves the main task with an exception.
    if run.next_input is None and main.exception() is not None:
        return
    # One record for each activity and child workflow, because a loop may have forgotten many.
    forgotten: dict[str, list[ActivityCall | ChildCall]] = {}
    for call in unheard:
        if not isinstance(call, (ActivityCall, ChildCall)) or call.is_awaited or call.cancelled():
            continue
        # A child with such a rule is meant to go on after the end of its parent.
        if isinstance(call, ChildCall) and call.parent_close == "abandon":
            continue
        forgotten.setdefault(_name(call), []).append(call)
    for name, calls in forgotten.items():
        _log(run, _text(run, name, calls))


def _name(call: ActivityCall | ChildCall) -> str:
    if isinstance(call, ActivityCall):
        return call.name
    return call.workflow


def _text(run: Execution, name: str, calls: list[ActivityCall | ChildCall]) -> str:
    count = ""
    if len(calls) > 1:
        count = f" {len(calls)} times"
    places = run.definitions.places_of_calls(run.definition, name)
    place = f"in workflow {run.definition.name!r}"
    if places:
        place = f"at {' or '.join(places)}"
    became = "The end of the workflow cancels what still works."
    if all(call.done() for call in calls):
        became = "No code has looked at the answer."
    return (
        f"{calls[0].describe()} was called and never awaited{count}, {place}. {became} "
        "Write `await`, or cancel the call if it is not wanted"
    )


def _log(run: Execution, text: str) -> None:
    if not logger.isEnabledFor(logging.WARNING):
        return
    ids: dict[str, object] = {
        "instance": run.unit,
        "execution": run.started.execution,
        "workflow": run.definition.name,
        "version": run.definition.version,
    }
    record = logger.makeRecord(
        logger.name, logging.WARNING, __file__, 0, text, (), None, "report_forgotten", ids
    )
    # A turn that is discarded has ended nothing.
    if run.keeps_logs:
        run.keep_log(record)
    else:
        logger.handle(record)
