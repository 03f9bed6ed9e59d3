"""`serve --until-idle`: a time that may be left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from perdure.cli.options import seconds

IDLE = "--until-idle"
IDLE_S = 10
"""How long there must be nothing to do if the option does not say it."""


def _some_seconds(text: str | float) -> float:
    found = seconds(text)
    if found <= 0:
        msg = f"{text!r} is no time: there must be nothing to do for longer than 0"
        raise typer.BadParameter(msg)
    return found


IdleTime = Annotated[
    float | None,
    typer.Option(
        IDLE,
        metavar="[=DURATION]",
        parser=_some_seconds,
        help="End when there was nothing to do for so long (10 s), and nothing is due as soon.",
        show_default="off",
    ),
]


def with_idle_time(args: Sequence[str]) -> list[str]:
    """The arguments, with the time behind an `--until-idle` that has none."""
    # The parser of options knows no value that may be left out.
    given = list(args)
    for place, arg in enumerate(given):
        if arg == "--":
            break
        if arg == IDLE:
            given[place] = f"{IDLE}={IDLE_S}"
    return given
