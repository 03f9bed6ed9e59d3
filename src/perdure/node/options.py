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
from perdure.kernel.data.limits import Limits, check_count

ENVIRONMENT_PREFIX = "PERDURE_"

_MAY_BE_0 = ("grace_ms", "stop_ms", "store_retry_ms", "retention_ms", "gc_residents")


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a node works. Times are milliseconds.

    `activities` run at once at most (per node), `queues` limits single queues below that. `threads` serve `def`
    activities, `processes` those with
    `executor="process"`. `residents` instances stay in memory; the longest idle leave first. `loads` instances are
    loaded at once at most.
    `turn_slice_ms` is how long a turn goes on taking messages that wait: the rest has its turn after
    those of other instances. `turn_limit_ms` is how long one turn may take before it is interrupted; after
    `turn_failures` such turns in a row the instance is set aside. After `crash_failures` crashes of the process with
    an instance at work it runs on trial for `trial_ms`, or longer after more of them; after as many crashes with it
    alone on trial it is set aside. Between those the others run without it for `control_ms`, the second time three
    times as long. `rescan_ms` is how often the node looks for
    messages of which no hint has reached it. `grace_ms` is what a cancelled activity
    gets to clean up, `stop_ms` what running activities get when the node stops.
    `store_retry_ms` is how long the store may be away before the node is frozen, until it answers.
    `horizon_ms` is
    how far ahead deadlines of instances on disk are held in memory.
    Each time `gc_residents` more instances have come into memory, all that is there is set apart from what Python's
    garbage collector looks at (0: never). That concerns the whole process.
    `retention_ms` is how long instances stay after their end; then they are deleted (0: they stay). Every `sweep_ms`
    the node looks for these, and for answers, tombstones and dead letters that have expired.
    """

    activities: int = 1_000
    queues: Mapping[str, int] = field(default_factory=dict[str, int])
    threads: int = 32
    processes: int = 2
    residents: int = 20_000
    loads: int = 64
    turn_slice_ms: int = 20
    turn_limit_ms: int = 2_000
    turn_failures: int = 3
    crash_failures: int = 3
    trial_ms: int = 2_000
    control_ms: int = 10_000
    grace_ms: int = 10_000
    stop_ms: int = 1_000
    store_retry_ms: int = 10_000
    horizon_ms: int = 3_600_000
    rescan_ms: int = 5_000
    gc_residents: int = 0
    retention_ms: int = 0
    sweep_ms: int = 60_000
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Check the numbers once.

        Raises:
            UsageError: naming the option.
        """
        for option in fields(self):
            if option.name not in ("queues", "limits"):
                least = 0 if option.name in _MAY_BE_0 else 1
                check_count(f"NodeOptions.{option.name}", getattr(self, option.name), least)
        check_kind("NodeOptions.queues", self.queues, Mapping, "map queue names to numbers")
        for queue, count in self.queues.items():
            check_count(f"NodeOptions.queues[{queue!r}]", count)
        check_kind("NodeOptions.limits", self.limits, Limits, "be a Limits")

    @classmethod
    def load(
        cls, path: str | Path | None = None, environment: Mapping[str, str] | None = None
    ) -> NodeOptions:
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
            except (OSError, ValueError) as error:
                msg = f"cannot read options from {path}: {error}"
                raise UsageError(msg) from error
            options = _merged(options, table, str(path))
        given = os.environ if environment is None else environment
        return _merged(options, _from_environment(given), "environment")


def check_kind(what: str, value: object, kind: type, rule: str) -> None:
    """Refuse a value of another kind.

    Raises:
        UsageError: `what` must `rule`.
    """
    if not isinstance(value, kind):
        msg = f"{what} must {rule}, got {value!r}"
        raise UsageError(msg)


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    plain = {f.name for f in fields(NodeOptions)} - {"limits", "queues"}
    limits = {f.name for f in fields(Limits)}
    for key, text in environment.items():
        name = key.removeprefix(ENVIRONMENT_PREFIX).lower()
        if not key.startswith(ENVIRONMENT_PREFIX):
            continue
        if name in plain:
            table[name] = _whole(text, key)
        elif name.removeprefix("limits_") in limits:
            table.setdefault("limits", {})[name.removeprefix("limits_")] = _whole(text, key)
    return table


def _whole(text: str, key: str) -> int:
    try:
        return int(text)
    except ValueError:
        msg = f"bad value in environment: {key} must be a whole number, got {text!r}"
        raise UsageError(msg) from None


def _merged(options: NodeOptions, table: object, origin: str) -> NodeOptions:
    given = _checked(table, "node", {f.name for f in fields(NodeOptions)}, "option", origin)
    changes: dict[str, Any] = {
        k: _number(v, k, origin) for k, v in given.items() if k not in ("limits", "queues")
    }
    if "queues" in given:
        queues = _checked(given["queues"], "queues", None, "queue", origin)
        changes["queues"] = {k: _number(v, f"queues.{k}", origin) for k, v in queues.items()}
    if "limits" in given:
        limits = _checked(
            given["limits"], "limits", {f.name for f in fields(Limits)}, "limit", origin
        )
        changes["limits"] = replace(
            options.limits, **{k: _number(v, f"limits.{k}", origin) for k, v in limits.items()}
        )
    return replace(options, **changes)


def _checked(
    table: object, name: str, known: set[str] | None, kind: str, origin: str
) -> dict[str, object]:
    """A table whose keys are all known."""
    check_kind(f"bad value in {origin}: {name}", table, dict, "be a table")
    found = msgspec.convert(table, dict[str, object])
    if known is not None and (unknown := sorted(set(found) - known)):
        msg = f"unknown {kind} {unknown[0]!r} in {origin}; known are {', '.join(sorted(known))}"
        raise UsageError(msg)
    return found


def _number(value: object, name: str, origin: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"bad value in {origin}: {name} must be a whole number, got {value!r}"
        raise UsageError(msg)
    return value
