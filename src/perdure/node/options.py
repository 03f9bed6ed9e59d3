"""All options of a node in one place, with a loader for environment variables and TOML files."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from perdure.errors import UsageError
from perdure.kernel.limits import Limits

ENVIRONMENT_PREFIX = "PERDURE_"


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a node works. Times are milliseconds.

    `activities` run at once at most (per node), `queues` limits single queues below that. `threads` serve `def`
    activities, `processes` those with
    `executor="process"`. `residents` instances stay in memory; the longest idle leave first. `loads` instances are
    loaded at once at most.
    `turn_limit_ms` is how long one turn may take before it is interrupted; after `turn_failures` such turns in a row
    the instance is set aside. `grace_ms` is what
    a cancelled activity gets to clean up, `stop_ms` what running activities get when the node stops. `horizon_ms` is
    how far ahead deadlines of instances on disk are held in memory.
    """

    activities: int = 1_000
    queues: Mapping[str, int] = field(default_factory=dict[str, int])
    threads: int = 32
    processes: int = 2
    residents: int = 20_000
    loads: int = 64
    turn_limit_ms: int = 2_000
    turn_failures: int = 3
    crash_failures: int = 3
    grace_ms: int = 10_000
    stop_ms: int = 1_000
    horizon_ms: int = 3_600_000
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Check the numbers once.

        Raises:
            UsageError: naming the option.
        """
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, int) and value < (0 if option.name in ("grace_ms", "stop_ms") else 1):
                msg = f"NodeOptions.{option.name} must be positive, got {value}"
                raise UsageError(msg)

    @classmethod
    def load(cls, path: str | Path | None = None, environment: Mapping[str, str] | None = None) -> NodeOptions:
        """Options from a TOML file (table `[node]`, limits in `[node.limits]`) and environment variables, which win.

        `PERDURE_TURN_LIMIT_MS=5000` sets `turn_limit_ms`, `PERDURE_LIMITS_HISTORY_EVENTS=100` sets
        `limits.history_events`.

        Raises:
            UsageError: an unknown option or a value of the wrong type, named with its origin.
        """
        options = cls()
        if path is not None:
            try:
                table = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("node", {})
            except (OSError, tomllib.TOMLDecodeError) as error:
                msg = f"cannot read options from {path}: {error}"
                raise UsageError(msg) from error
            options = _merged(options, table, str(path))
        given = os.environ if environment is None else environment
        return _merged(options, _from_environment(given), "environment")


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    plain = {f.name for f in fields(NodeOptions)} - {"limits", "queues"}
    limits = {f.name for f in fields(Limits)}
    for key, text in environment.items():
        name = key.removeprefix(ENVIRONMENT_PREFIX).lower()
        if not key.startswith(ENVIRONMENT_PREFIX):
            continue
        if name in plain:
            table[name] = text
        elif name.removeprefix("limits_") in limits:
            table.setdefault("limits", {})[name.removeprefix("limits_")] = text
    return table


def _merged(options: NodeOptions, table: Mapping[str, Any], origin: str) -> NodeOptions:
    known = {f.name for f in fields(NodeOptions)}
    unknown = sorted(set(table) - known)
    if unknown:
        msg = f"unknown option {unknown[0]!r} in {origin}; known are {', '.join(sorted(known))}"
        raise UsageError(msg)
    try:
        changes: dict[str, Any] = {k: _number(v) for k, v in table.items() if k not in ("limits", "queues")}
        if "queues" in table:
            changes["queues"] = msgspec.convert(table["queues"], dict[str, int])
        if "limits" in table:
            names = {f.name for f in fields(Limits)}
            wrong = sorted(set(table["limits"]) - names)
            if wrong:
                msg = f"unknown limit {wrong[0]!r} in {origin}; known are {', '.join(sorted(names))}"
                raise UsageError(msg)
            changes["limits"] = replace(options.limits, **{k: _number(v) for k, v in table["limits"].items()})
    except (ValueError, msgspec.ValidationError) as error:
        msg = f"bad value in {origin}: {error}"
        raise UsageError(msg) from error
    return replace(options, **changes)


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        msg = f"{value!r} is not a whole number"
        raise ValueError(msg)
    return int(value)
