"""Logs: which records are shown, how they look, and the ids that they carry.

    import perdure.logs

    perdure.logs.configure(format="json", level="info", areas={"perdure.node": "debug"})

Perdure logs through `logging`, and touches no handler unless `configure` is called. A program with
a set-up of its own takes the parts: the filter `Ids` for its handlers, and the formatters `Text`
and `Json`.

Records of workflows and activities are shown from `level` on, and so are those of every logger that
is not Perdure's. Perdure's own areas are shown from `warning` on. `areas` changes that for single
loggers, and the environment has the last word:

    PERDURE_LOG="perdure.node=debug,perdure.store=info"
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, Protocol

from perdure.activity import attempt_ids, running_attempt
from perdure.errors import UsageError
from perdure.kernel.execution.execution import current_run
from perdure.runlog import run_ids

__all__ = ["Ids", "Json", "Text", "configure", "reset"]

ENVIRONMENT = "PERDURE_LOG"

USER_AREAS = ("perdure.activity", "perdure.workflow")
"""The loggers of users' code: `activity.logger` and `workflow.logger`."""

AREAS = (
    "perdure.activity",
    "perdure.client",
    "perdure.clock",
    "perdure.failures",
    "perdure.guard",
    "perdure.node",
    "perdure.store",
    "perdure.workflow",
)
"""The loggers of Perdure. `perdure` stands for those that are not `USER_AREAS`."""

LEVELS = ("debug", "info", "warning", "error", "critical")

IDS = ("node", "instance", "execution", "workflow", "version", "activity", "seq", "attempt")
"""Attributes of a record that say where it comes from. Those that do not apply are absent."""

Level = Literal["debug", "info", "warning", "error", "critical"]

node_name: ContextVar[str | None] = ContextVar("perdure_node", default=None)
"""Set in the context in which a node runs activities."""


class Stream(Protocol):
    """The target of lines."""

    def write(self, text: str, /) -> object:
        """Write text."""
        ...


# ---------------------------------------------------------------- the ids of a record


def present_ids() -> dict[str, object]:
    """The ids of the workflow or activity that the calling code belongs to. Empty outside."""
    run = current_run()
    if run is not None:
        return run_ids(run)
    attempt = running_attempt.get()
    if attempt is None:
        return {}
    node = node_name.get()
    if node is None:
        return attempt_ids(attempt)
    return {"node": node, **attempt_ids(attempt)}


class Ids(logging.Filter):
    """Adds the ids to every record that workflow or activity code makes, whatever logger it uses.

    For handlers: `handler.addFilter(Ids())`. Ids that a record has already stay. Records that
    workflow code makes while it is replayed are dropped: they were logged when it happened.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add them."""
        run = current_run()
        is_internal = _is_internal(record.name)
        if run is not None and run.replaying and not is_internal:
            return False
        if not is_internal:
            ids = present_ids()
        elif run is not None and not hasattr(record, "instance"):
            ids = run_ids(run)
        else:
            # A node works in the context of its waker, perhaps an activity of another instance,
            # whose ids would be wrong here.
            ids = {}
        for key, value in ids.items():
            if not hasattr(record, key):  # the logger that made the record knew better
                setattr(record, key, value)
        return True


def _is_internal(logger: str) -> bool:
    return logger in AREAS and logger not in USER_AREAS


def _ids_of(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    for key in IDS:
        value = getattr(record, key, None)
        if value not in (None, ""):
            yield key, value


# ---------------------------------------------------------------- formats


class Text(logging.Formatter):
    """One line for people: time of day, level, logger, message, and the ids in brackets.

    Tracebacks follow.
    """

    def __init__(self) -> None:
        """There are no options."""
        super().__init__(
            "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"
        )

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """The line."""
        line = super().formatMessage(record)
        ids = " ".join(f"{key}={value}" for key, value in _ids_of(record))
        if not ids:
            return line
        return f"{line} [{ids}]"


_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", *IDS}
"""Attributes of a record that are no `extra` of the user."""


class Json(logging.Formatter):
    """One JSON object per line. docs/observability.md lists its keys."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        created = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
        line: dict[str, object] = {
            "time": created.isoformat(timespec="milliseconds") + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **dict(_ids_of(record)),
        }
        extra = {key: value for key, value in vars(record).items() if key not in _OWN}
        if extra:
            line["extra"] = extra
        error: BaseException | None = None
        if record.exc_info:
            error = record.exc_info[1]
        if error is not None:
            trace = "".join(traceback.format_exception(error))
            line["exception"] = {
                "type": type(error).__qualname__,
                "message": str(error),
                "traceback": trace,
            }
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            return json.dumps(line, default=str, allow_nan=False)
        except (TypeError, ValueError):
            # The extra has a key that is no text, a number that JSON has not, or a circle. As text
            # it can be shown in any case.
            return json.dumps({**line, "extra": {key: str(value) for key, value in extra.items()}})


_FORMATTERS: dict[str, type[Text | Json]] = {"text": Text, "json": Json}


# ---------------------------------------------------------------- levels and areas


class _Lines(logging.Handler):
    """Writes to a stream.

    None stands for the `sys.stderr` of the moment. The command line replaces it while a live
    display is there, which stays whole thus.
    """

    def __init__(self, stream: Stream | None, areas: list[str], root_level: int) -> None:
        super().__init__()
        self.stream = stream
        self.areas = areas
        self.root_level = root_level

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.stream is not None:
                stream: Stream = self.stream
            else:
                stream = sys.stderr
            # One write per line, so that lines of several threads do not mix.
            stream.write(self.format(record) + "\n")
            flush = getattr(stream, "flush", None)
            if flush is not None:
                flush()
        except Exception:
            self.handleError(record)


def configure(
    format: Literal["text", "json"] = "text",
    level: Level = "info",
    areas: Mapping[str, Level] | None = None,
    stream: Stream | None = None,
) -> None:
    """Show records on `stream` (default: stderr) from now on, in this process.

    Calling it again replaces that. `areas` sets the level of single loggers: Perdure's
    (`perdure.logs.AREAS`), or your own by name. The environment variable PERDURE_LOG wins over it.

    Raises:
        UsageError: an unknown format, level or area, here or in PERDURE_LOG. Nothing was changed.
    """
    if format not in _FORMATTERS:
        msg = f"the log format must be 'text' or 'json', got {format!r}"
        raise UsageError(msg)
    if stream is not None and not callable(getattr(stream, "write", None)):
        msg = f"stream must be something to write text to, got {stream!r}"
        raise UsageError(msg)
    chosen = _number(level, "the log level")
    levels = {"perdure": max(chosen, logging.WARNING), **dict.fromkeys(USER_AREAS, chosen)}
    for area, name in (areas or {}).items():
        levels[_area(area, "areas=")] = _number(name, f"the level of {area!r} in areas=")
    levels |= _from_environment(os.environ.get(ENVIRONMENT, ""))
    # Everything is checked by now, so an error leaves the earlier set-up as it is.
    reset()
    root = logging.getLogger()
    lines = _Lines(stream, list(levels), root.level)
    lines.setFormatter(_FORMATTERS[format]())
    lines.addFilter(Ids())
    root.addHandler(lines)
    root.setLevel(chosen)
    for area, number in levels.items():
        logging.getLogger(area).setLevel(number)


def reset() -> None:
    """Undo `configure`: nothing is shown, and levels are as they were. For tests."""
    root = logging.getLogger()
    for lines in [handler for handler in root.handlers if isinstance(handler, _Lines)]:
        root.removeHandler(lines)
        root.setLevel(lines.root_level)
        for area in lines.areas:
            logging.getLogger(area).setLevel(logging.NOTSET)


def _from_environment(text: str) -> dict[str, int]:
    levels: dict[str, int] = {}
    for part in map(str.strip, text.split(",")):
        if not part:  # a comma at the end, or an empty variable
            continue
        area, given, level = part.partition("=")
        if not given:
            msg = (
                f"{ENVIRONMENT}: {part!r} must be AREA=LEVEL, for example perdure.node=debug; "
                f"areas are {_allowed()}, levels are {', '.join(LEVELS)}"
            )
            raise UsageError(msg)
        levels[_area(area.strip(), ENVIRONMENT)] = _number(
            level.strip(), f"the level of {area.strip()!r} in {ENVIRONMENT}"
        )
    return levels


def _allowed() -> str:
    return f"perdure, {', '.join(AREAS)} and loggers of your own"


def _area(area: object, where: str) -> str:
    if isinstance(area, str) and area:
        is_ours = area.partition(".")[0] == "perdure"
        # A typing error in a name of ours would have no effect and go unnoticed. Loggers of users
        # may have any name.
        if not is_ours or area in ("perdure", *AREAS):
            return area
    msg = f"{where}: there is no area {area!r}; areas are {_allowed()}"
    raise UsageError(msg)


def _number(level: object, what: str) -> int:
    if not isinstance(level, str) or level.lower() not in LEVELS:
        msg = f"{what} must be {', '.join(LEVELS[:-1])} or {LEVELS[-1]}, got {level!r}"
        raise UsageError(msg)
    return logging.getLevelNamesMapping()[level.upper()]
