"""The log of a command that runs a node: records on stderr, above a live display."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from perdure.cli.options import LogFormat, LogLevel
from perdure.logs import configure


def to_stderr(level: LogLevel, format: LogFormat = LogFormat.TEXT) -> None:
    """Log from this level on, for the rest of the process.

    PERDURE_LOG has the last word on single areas.

    Raises:
        UsageError: PERDURE_LOG names an unknown area or level.
    """
    configure(format.value, level.value)


@contextmanager
def without(id: str, *, attempts: bool) -> Generator[None, None, None]:
    """Log no end of this instance, and none of its `attempts`: the command shows them itself."""

    def is_shown(record: logging.LogRecord) -> bool:
        is_its_own = getattr(record, "instance", None) == id
        # Records of attempts and checkpoints have the number of the call.
        is_attempt = hasattr(record, "seq")
        return not is_its_own or (is_attempt and not attempts)

    logger = logging.getLogger("perdure.failures")
    logger.addFilter(is_shown)
    try:
        yield
    finally:
        logger.removeFilter(is_shown)
