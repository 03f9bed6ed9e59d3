"""Versions of code, the next execution, and the instance that runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from perdure.errors import UsageError
from perdure.kernel.data.definition import check_label, normal_version
from perdure.kernel.execution import changes
from perdure.kernel.execution.execution import Execution
from perdure.workflow.caller import caller as _run
from perdure.workflow.children import Workflow

if TYPE_CHECKING:
    from perdure.kernel.data.definition import WorkflowDefinition


P = ParamSpec("P")
R = TypeVar("R")


def _continue(
    run: Execution,
    version: str | None,
    definition: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> NoReturn:
    """End the execution with the arguments of the next one."""
    if not isinstance(definition, Workflow):
        msg = f"continue_as_new() needs a workflow (@app.workflow), got {definition!r}"
        raise UsageError(msg)
    # Checked by hand: a plain function fits the annotation of an untyped program.
    known: WorkflowDefinition = definition.definition
    # Handles of the instance decode its result by the workflow's type, so the workflow stays.
    if known.name != run.definition.name:
        msg = (
            f"continue_as_new({known.name}): {run.unit!r} runs {run.definition.name!r} "
            "and can only continue as that"
        )
        raise UsageError(msg)
    data = known.signature.draft(args, kwargs)
    run.continue_as_new(data, version, lambda: known.signature.check(data))


def patched(patch: str) -> bool:
    """A switch for a change of code.

    True for runs that reach this line with the new code, False for those that passed it before.
    """
    return changes.patched(_run("patched()"), check_label(patch, "a patch"))


def continue_as_new(definition: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
    """End this execution and begin the next one with new arguments and an empty history.

    Messages, KV and status are kept. The version is resolved again: this is where a running
    instance moves to new code.
    """
    run = _run("continue_as_new()")
    _continue(run, None, definition, args, kwargs)


def continue_as_version(
    version: str | int, definition: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> NoReturn:
    """Like `continue_as_new`, for an exact version of the code."""
    run = _run("continue_as_version()")
    _continue(run, normal_version(version), definition, args, kwargs)


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """The running instance.

    `history_events` is the length of this execution's history at this line, and the same in replay.
    Nothing may be decided by `is_replaying`: it is for logging.
    """

    id: str
    run: str
    execution: int
    workflow: str
    version: str
    parent: str | None
    started_at: datetime
    history_events: int
    is_replaying: bool


def info() -> WorkflowInfo:
    """Id, execution, version and history length of the running instance."""
    run = _run("info()")
    started = run.started
    parent = None
    if started.parent is not None:
        parent = started.parent.unit
    return WorkflowInfo(
        run.unit,
        started.run.hex(),
        started.execution,
        started.workflow,
        started.version,
        parent,
        datetime.fromtimestamp(started.at / 1000, UTC),
        run.history_events,
        run.replaying,
    )
