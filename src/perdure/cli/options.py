"""Arguments and options that several commands share."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated

import typer

from perdure.cli.door import DEFAULT_URL
from perdure.errors import UsageError

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def seconds(text: str | float) -> float:
    """A duration: seconds (`90`, `0.5`), or a number with a unit (`90s`, `1.5h`, `30d`).

    Raises:
        BadParameter: it is none. typer adds the name of the option.
    """
    form = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)([smhdw]?)", str(text).strip())
    if form is None:
        msg = f"{text!r} is no duration; write seconds, or a number with a unit: 90s, 5m, 1.5h, 30d"
        raise typer.BadParameter(msg)
    return float(form[1]) * _UNITS_S[form[2] or "s"]


StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="PERDURE_STORE",
        metavar="URL",
        help="The store, for example sqlite:///shop.db.",
    ),
]
Id = Annotated[
    str, typer.Argument(metavar="ID", help="The id of the instance.", show_default=False)
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
]
Wide = Annotated[
    bool, typer.Option("--wide", help="One whole line for each row, however wide the screen is.")
]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in the history.")
]
Wait = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        parser=seconds,
        help="Wait no longer (exit code 4).",
        show_default=False,
    ),
]
Version = Annotated[
    str | None,
    typer.Option(
        "--version",
        metavar="VERSION",
        help="Exactly this version of the workflow; else what new runs get.",
        show_default=False,
    ),
]
AppName = Annotated[
    str | None,
    typer.Option(
        "--app", metavar="NAME", help="Which App, if the module has several.", show_default=False
    ),
]

__all__ = [
    "DEFAULT_URL",
    "AppName",
    "AsJson",
    "Id",
    "IfExists",
    "LogFormat",
    "LogFormats",
    "LogLevel",
    "Reason",
    "StoreUrl",
    "Version",
    "Wait",
    "Wide",
    "point_in_time",
    "seconds",
]


class IfExists(Enum):
    """The action of a start whose id is taken."""

    JOIN = "join"
    REJECT = "reject"
    REPLACE = "replace"
    RENEW = "renew"


class LogFormat(Enum):
    """The form of log records."""

    TEXT = "text"
    JSON = "json"


LogFormats = Annotated[
    LogFormat,
    typer.Option(
        "--log-format", help="How log records on stderr look: for people, or a JSON object each."
    ),
]


class LogLevel(Enum):
    """The least level of records on stderr."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


# A larger age would leave the range of datetime, which is an error and no time.
_AGE_MAX_S = 100 * 366 * 86_400


def point_in_time(text: str | None, flag: str) -> datetime | None:
    """An age before now (`30d`), or a date or time as ISO 8601. A time without a zone is local.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    age = re.fullmatch(r"(\d{1,10})([smhdw])", text.strip())
    if age is not None:
        seconds = int(age[1]) * _UNITS_S[age[2]]
        if seconds <= _AGE_MAX_S:
            return datetime.now(UTC) - timedelta(seconds=seconds)
    # A larger age is no date either, so it ends in the error below.
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        msg = (
            f"{flag} {text!r} is no time; "
            "give an age (90m, 12h, 30d) or a date (2026-01-31, 2026-01-31T12:00Z)"
        )
        raise UsageError(msg) from None


def given_text(text: str) -> str:
    """JSON as it was typed. `-` reads it from stdin."""
    if text != "-":
        return text
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        msg = f"stdin is no UTF-8 text: {error}"
        raise UsageError(msg) from error
