"""The end of an execution, which is that of `asyncio.run`.

When the main task is done, the remaining tasks are cancelled in order of creation and may clean up.
Async generators are closed in order, and calls that no task awaits are cancelled. Then the outcome
is recorded, as a command of the code. The turn makes the end of the unit of it, or the next
execution (`kernel/unit/lifecycle.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from perdure.codec.failure import failure_of
from perdure.errors import Failure, PayloadTooLarge, UsageError
from perdure.kernel.data import events as ev
from perdure.kernel.execution.forgotten import report_forgotten
from perdure.kernel.loop.call import Call

if TYPE_CHECKING:
    import asyncio

    from perdure.kernel.execution.execution import Execution

# Lines of these files are left out of the trace of a failure, which is for the workflow's author.
_OWN_TRACE = (
    "perdure/kernel/loop/loop.py",
    "perdure/kernel/execution/execution.py",
    "perdure/kernel/loop/call.py",
    "perdure/kernel/execution/ending.py",
)


class ContinueAsNew(BaseException):
    """Unwinds the code after `workflow.continue_as_new`.

    It is no `Exception`, so that `except Exception` lets it pass.
    """


def wind_up(run: Execution) -> None:
    """End the run, whose main task is done, if nothing keeps it open.

    This is called after each delivery until the run has ended.
    """
    main = run.main
    if main is None or run.ended is not None or run.broken is not None:
        return
    if not run.unwinding:
        run.unwind()
        for task in list(run.loop.tasks):
            if not task.done():
                task.cancel()
        run.loop.drain()
    if not _is_cleaned_up(run):
        return
    open_calls = [pending for pending in run.pending.values() if isinstance(pending, Call)]
    report_forgotten(run, [*run.unheard, *open_calls])
    for pending in list(run.pending.values()):
        pending.cancel()
    # Those that refused to end still hold a frame, which disposal drops.
    run.loop.keep_generators([g for g in run.closing or () if g.ag_frame is not None])
    if run.next_input is not None and run.cancel_requested is None:
        run.see_late_cancel()
    outcome = _outcome(run, main)
    try:
        recorded, _ = run.command(outcome, lambda: _check_outcome(run, outcome))
    except UsageError as unfit:
        # The refusal is in the journal, too, so that replay comes by here again.
        failed = ev.Failed(run.loop.now_ms, failure_of(unfit, skip=_OWN_TRACE))
        recorded, _ = run.command(failed)
    run.end(recorded)


def _is_cleaned_up(run: Execution) -> bool:
    """Close the generators one by one. False while a task still cleans up."""
    loop = run.loop
    while True:
        if any(not task.done() for task in loop.tasks):
            return False
        if not loop.generators:
            return True
        generator = loop.generators.pop(0)
        if generator.ag_frame is not None:  # type: ignore[attr-defined]
            run.close_generator(generator)
            # In a task of its own, because its `finally` may await, and so last for turns.
            _ = loop.create_task(_aclose(generator))
            loop.drain()


async def _aclose(generator: Any) -> None:
    await generator.aclose()


def _outcome(run: Execution, main: asyncio.Task[Any]) -> ev.Event:
    at = run.loop.now_ms
    asked = run.cancel_requested
    if main.cancelled():
        if asked is None:
            return _cancelled(at, "the workflow cancelled itself")
        return _cancelled(at, asked)
    if run.next_input is not None:
        main.exception()  # looked at, so that asyncio does not report it
        # A cancel beats a continuation: otherwise code that continues for ever never stops.
        if asked is not None:
            return _cancelled(at, asked)
        return ev.ContinuedAsNew(at, *run.next_input)
    error = main.exception()
    if error is None:
        try:
            return ev.Completed(at, run.definition.signature.result.draft(main.result()))
        except (ValueError, TypeError) as unfit:
            error = unfit
    return ev.Failed(at, _with_small_details(run, failure_of(error, skip=_OWN_TRACE)))


def _cancelled(at: int, reason: str) -> ev.Cancelled:
    return ev.Cancelled(at, Failure("CancelledError", reason, "cancelled", retryable=False))


def _with_small_details(run: Execution, failure: Failure) -> Failure:
    """The failure, without its details if they are too large."""
    if failure.details is None:
        return failure
    # No refusal is recorded: the code has ended, so it cannot catch one.
    try:
        run.check_size(failure.details, "the details of the error")
    except PayloadTooLarge as large:
        message = f"{failure.message} (its details cannot travel: {large})"
        return msgspec.structs.replace(failure, message=message, details=None)
    return failure


def _check_outcome(run: Execution, outcome: ev.Event) -> None:
    if isinstance(outcome, ev.Completed):
        run.definition.signature.result.check(outcome.result)
        run.check_size(outcome.result, f"the result of workflow {run.definition.name!r}")
