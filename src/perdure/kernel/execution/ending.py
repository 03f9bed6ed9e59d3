"""How a run ends: as `asyncio.run` does.

When the main task is done, the remaining tasks are cancelled in order of creation and may clean up.
Async generators are closed in order, and calls that nobody awaits are cancelled. Then the outcome is
recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from perdure.codec.failure import failure_of
from perdure.errors import Failure, PayloadTooLarge, UsageError
from perdure.kernel.data import events as ev

if TYPE_CHECKING:
    import asyncio

    from perdure.kernel.execution.execution import Execution

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
    """End the run, whose main task is done, if nothing keeps it open."""
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
    for pending in list(run.pending.values()):
        pending.cancel()
    run.loop.keep_generators([g for g in run.closing or () if g.ag_frame is not None])
    if run.next_input is not None and run.cancel_requested is None:
        run.see_late_cancel()
    outcome = _outcome(run, main)
    try:
        recorded, _ = run.command(outcome, lambda: _check_outcome(run, outcome))
    except UsageError as unfit:
        failed = ev.Failed(run.loop.now_ms, failure_of(unfit, skip=_OWN_TRACE))
        recorded, _ = run.command(failed)
    run.end(recorded)


def _is_cleaned_up(run: Execution) -> bool:
    """Close the generators one by one. False while a task still cleans up."""
    loop = run.loop
    while True:
        if any(not t.done() for t in loop.tasks):
            return False
        if not loop.generators:
            return True
        generator = loop.generators.pop(0)
        if generator.ag_frame is not None:  # type: ignore[attr-defined]
            run.close_generator(generator)  # one that refuses to end is left to `dispose`
            _ = loop.create_task(_aclose(generator))
            loop.drain()


def _outcome(run: Execution, main: asyncio.Task[Any]) -> ev.Event:
    at = run.loop.now_ms
    if main.cancelled():
        asked = run.cancel_requested
        reason = asked if asked is not None else "the workflow cancelled itself"
        return ev.Cancelled(at, Failure("CancelledError", reason, "cancelled", retryable=False))
    if run.next_input is not None:
        main.exception()  # looked at, so that asyncio does not report it
        asked = run.cancel_requested
        if asked is not None:
            return ev.Cancelled(at, Failure("CancelledError", asked, "cancelled", retryable=False))
        return ev.ContinuedAsNew(at, *run.next_input)
    error = main.exception()
    if error is None:
        try:
            return ev.Completed(at, run.definition.signature.result.encode(main.result()))
        except (ValueError, TypeError) as unfit:
            error = unfit
    return ev.Failed(at, _with_small_details(run, failure_of(error, skip=_OWN_TRACE)))


def _with_small_details(run: Execution, failure: Failure) -> Failure:
    """The failure without its details if they are too large. The code has ended and catches nothing."""
    if failure.details is None:
        return failure
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


async def _aclose(generator: Any) -> None:
    await generator.aclose()
