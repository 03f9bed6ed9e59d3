"""The workflows of the simulation in a process that is killed: what has begun goes to a file.

`STORM_EFFECTS` names the file.
"""

from __future__ import annotations

import os
from pathlib import Path

from perdure.simulation.programs import LISTENERS, app

__all__ = ["app"]


def _write(tag: str) -> None:
    with Path(os.environ["STORM_EFFECTS"]).open("a") as effects:
        effects.write(f"{tag}\n")


LISTENERS.append(_write)
