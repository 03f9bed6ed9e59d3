"""The logger of workflow code: silent in replay, and shown when a turn is durable."""

from __future__ import annotations

import logging
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from contextvars import Context
from typing import Any

from perdure.kernel.execution.execution import Execution, current_run


class _Spool(logging.Logger):
    """Makes the records of `workflow.logger`, and keeps those of a turn until it is durable.

    A turn that is discarded did not happen, so its records would tell of things that were not done.
    """

    def __init__(self, target: logging.Logger) -> None:
        super().__init__(target.name)
        self.target = target

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # the name is logging's
        """As the logger that users set up."""
        return self.target.isEnabledFor(level)

    def handle(self, record: logging.LogRecord) -> None:
        """Keep the record for the turn. Without a turn it is shown at once."""
        run = current_run()
        if run is None or not run.keeps_logs:
            self.target.handle(record)
            return
        with suppress(Exception):  # a text that does not fit its arguments: the handler reports it
            # The text is made now, because its arguments may change before the turn ends.
            _set_text(record, record.getMessage())
        run.keep_log(record)


class _ReplaySafe(logging.LoggerAdapter[logging.Logger]):
    """Logs with the instance's ids, and is silent in replay."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # the name is logging's
        """Silent in replay: the record was shown when it happened."""
        run = current_run()
        if run is not None and run.replaying:
            return False
        return self.logger.isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the ids."""
        run = current_run()
        if run is not None:
            # The ids win over an `extra` of the same name, so that every record can be trusted.
            extra = dict(kwargs.get("extra") or {})
            extra.update(run_ids(run))
            kwargs["extra"] = extra
        return msg, kwargs


def show_logs(records: Iterable[logging.LogRecord], *, discarded: bool = False) -> None:
    """Show records that a turn kept, once it is durable.

    `discarded` marks the records of a turn that failed. They help to find out why, but their events
    did not happen.
    """
    # The caller may work in the context of an activity, whose ids these records must not get.
    empty = Context()
    for record in records:
        if discarded:
            _set_text(record, f"{record.getMessage()} (this turn was discarded)")
        try:
            empty.run(_target.handle, record)
        except Exception:
            # A filter of the program. The turn is durable, and its effects must follow. So the
            # error goes where `logging` reports the errors of handlers.
            _reporter.handleError(record)


def _set_text(record: logging.LogRecord, text: str) -> None:
    """Give a record its final text. Without arguments logging does not format it again."""
    record.msg = text
    record.args = None


def run_ids(run: Execution) -> dict[str, object]:
    """The ids in the log records of a run."""
    started = run.started
    return {
        "instance": run.unit,
        "execution": started.execution,
        "workflow": started.workflow,
        "version": started.version,
    }


_target = logging.getLogger("perdure.workflow")
_reporter = logging.Handler()

logger = _ReplaySafe(_Spool(_target), {})
"""A logger that is silent in replay and carries the instance's ids.

On a node its records are shown when the turn that made them is durable.
"""
