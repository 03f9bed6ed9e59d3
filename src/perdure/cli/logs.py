"""The log of a node that runs in a terminal: one line per record on stderr."""

from __future__ import annotations

import logging
import sys

_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"


class _Lines(logging.Handler):
    """Writes to what `sys.stderr` is at that moment, so that lines appear above a live display, not inside it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


def to_stderr(level: str) -> None:
    """Log from this level on, for the rest of the process."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Lines)]:
        root.removeHandler(handler)
    lines = _Lines()
    lines.setFormatter(logging.Formatter(_FORMAT, "%H:%M:%S"))
    root.addHandler(lines)
    root.setLevel(level.upper())
