"""The log of a command that runs a node: records on stderr, above a live display."""

from __future__ import annotations

from perdure.cli.options import LogFormat, LogLevel
from perdure.logs import configure


def to_stderr(level: LogLevel, format: LogFormat = LogFormat.TEXT) -> None:
    """Log from this level on, for the rest of the process.

    PERDURE_LOG has the last word on single areas.

    Raises:
        UsageError: PERDURE_LOG names an unknown area or level.
    """
    configure(format.value, level.value)
