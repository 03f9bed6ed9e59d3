"""All options of a node in one place, with a loader for environment variables and TOML files."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from perdure.errors import DefinitionError, UsageError
from perdure.kernel.data.definition import check_name
from perdure.kernel.data.limits import Limits, check_count
from perdure.kernel.data.placement import check_group
from perdure.node.labels import check_labels, listed, read_labels
from perdure.ports.cluster import WEIGHT_MAX

logger = logging.getLogger("perdure.node")

ENVIRONMENT_PREFIX = "PERDURE_"

_TABLES = ("queues", "limits", "labels")
_NAMES = ("serves", "tags")
_LISTS = (*_NAMES, "groups")
_SWITCHES = ("only_tagged", "worker_only")
_NO_NUMBERS = (*_TABLES, *_LISTS, *_SWITCHES)
"""Options that are no numbers."""

_MAY_BE_ZERO = (
    "weight", "grace_ms", "stop_ms", "store_retry_ms", "retention_ms", "gc_residents", "sessions",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a node works. Times are milliseconds.

    **Activities.** `activities` is how many run at once on the node, and `queues` limits single
    queues below that. `threads` serve `def` activities, and `processes` serve those with
    `executor="process"`. `grace_ms` is how long a cancelled activity may clean up, and `stop_ms`
    how long running activities may go on when the node stops.

    **Memory.** `residents` instances stay in memory, and the longest idle leave first. One question
    to the store loads `loads` instances. Deadlines of instances on disk are held in memory
    `horizon_ms` ahead. Each time `gc_residents` more instances have come into memory, all that is
    there is set apart from what Python's garbage collector looks at (0: never). That concerns the
    whole process.

    **Turns.** `turn_slice_ms` is how long a turn goes on taking messages that wait. The rest has
    its turn after those of other instances. `turn_limit_ms` is how long one turn may take before it
    is interrupted. After `turn_failures` such turns in a row the instance is suspended.

    **Crashes.** After `crash_failures` crashes of the process with an instance at work it runs on
    trial for `trial_ms`, or longer after more of them. After as many crashes with it alone on trial
    it is suspended. Between those the others run without it for `control_ms`, the second time three
    times as long.

    **The cluster.** A node that has not renewed its lease for `lease_ms` counts as dead, and others
    take its work over. A node that is to take over the work of a living one waits up to
    `handover_ms` for its release. `weight` is the share of the work that falls to a node, in
    proportion to those of the others (0: none). It serves the `groups` of workflows that are named,
    or without names all those of its app. `labels` describe it, and instances can be pinned to
    them.

    **Shared queues.** The node runs tasks of the queues that it `serves` (None: of all that the app
    declares or its activities name). Of those with a tag it takes the ones with one of its `tags`,
    and with `only_tagged` no others. A task is leased for `task_lease_ms` at a time, and counts as
    lost when its lease was not renewed. Up to `sessions` sessions of a queue stay with the node,
    each until it was idle for `session_idle_ms`. A node that is `worker_only` owns no scopes.

    **The store.** `store_retry_ms` is how long the store may be away before the node is frozen,
    until the store answers. Every `rescan_ms` the node looks for messages of which no hint has
    reached it. Instances are deleted `retention_ms` after their end (0: never). Every `sweep_ms`
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
    lease_ms: int = 10_000
    handover_ms: int = 5_000
    weight: int = 100
    groups: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    serves: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()
    only_tagged: bool = False
    worker_only: bool = False
    task_lease_ms: int = 30_000
    sessions: int = 10
    session_idle_ms: int = 300_000
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
            if option.name in _NO_NUMBERS:
                continue
            least = 1
            if option.name in _MAY_BE_ZERO:
                least = 0
            check_count(f"NodeOptions.{option.name}", getattr(self, option.name), least)
        check_kind("NodeOptions.queues", self.queues, Mapping, "map queue names to numbers")
        for queue, count in self.queues.items():
            check_count(f"NodeOptions.queues[{queue!r}]", count)
        check_kind("NodeOptions.limits", self.limits, Limits, "be a Limits")
        if self.weight > WEIGHT_MAX:
            msg = f"NodeOptions.weight is {WEIGHT_MAX} at most, got {self.weight}"
            raise UsageError(msg)
        check_kind("NodeOptions.groups", self.groups, tuple, "be a tuple of names")
        for group in self.groups:
            check_group(group)
        check_kind("NodeOptions.labels", self.labels, Mapping, "map names to texts")
        check_labels(self.labels)
        for name in _NAMES:
            _check_names(name, getattr(self, name))
        for name in _SWITCHES:
            check_kind(f"NodeOptions.{name}", getattr(self, name), bool, "be True or False")

    @classmethod
    def load(
        cls, path: str | Path | None = None, environment: Mapping[str, str] | None = None
    ) -> NodeOptions:
        """Options from a TOML file and from environment variables, which win.

        The file has a table `[node]`, with limits in `[node.limits]`. In the environment
        `PERDURE_TURN_LIMIT_MS=5000` sets `turn_limit_ms`, and `PERDURE_LIMITS_HISTORY_EVENTS=100`
        sets `limits.history_events`.

        Raises:
            UsageError: an unknown option or a value of the wrong type, named with its origin.
        """
        options = cls()
        if path is not None:
            try:
                document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                msg = f"cannot read options from {path}: {error}"
                raise UsageError(msg) from error
            if "node" not in document:
                msg = f"{path} has no table [node]; put the options of the node below that line"
                raise UsageError(msg)
            options = _merged(options, document["node"], str(path))
        given = environment
        if given is None:
            given = os.environ
        _warn_of_unknown(given)
        return _merged(options, _from_environment(given), "environment")


def check_kind(what: str, value: object, kind: type, rule: str) -> None:
    """Refuse a value that is not of this kind.

    Raises:
        UsageError: the text is "`what` must `rule`".
    """
    if not isinstance(value, kind):
        msg = f"{what} must {rule}, got {value!r}"
        raise UsageError(msg)


def _check_names(option: str, names: object) -> None:
    """Refuse what is no tuple of names."""
    if names is None and option == "serves":
        return
    check_kind(f"NodeOptions.{option}", names, tuple, 'be a tuple of names, as ("gpu",)')
    for name in msgspec.convert(names, tuple[object, ...]):
        try:
            check_name(name, f"one of NodeOptions.{option}")
        except DefinitionError as error:
            raise UsageError(str(error)) from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The options that the environment sets, as a table like that of a file."""
    table: dict[str, Any] = {}
    limits: dict[str, int] = {}
    known = _names_of(NodeOptions)
    known_limits = _names_of(Limits)
    for key, text in environment.items():
        if not key.startswith(ENVIRONMENT_PREFIX):
            continue
        name = key.removeprefix(ENVIRONMENT_PREFIX).lower()
        limit = name.removeprefix("limits_")
        # A variable has no room for a table. Others with this prefix are no options: PERDURE_LOG.
        if name == "labels":
            table[name] = read_labels(listed(text))
        elif name in _LISTS:
            table[name] = listed(text)
        elif name in _SWITCHES:
            table[name] = _switch(text, key)
        elif name in known and name not in _TABLES:
            table[name] = _whole(text, key)
        elif limit in known_limits:
            limits[limit] = _whole(text, key)
    if limits:
        table["limits"] = limits
    return table


def _warn_of_unknown(environment: Mapping[str, str]) -> None:
    """Name the variables with the prefix of the options that nothing reads.

    They are no errors, because a later release or another program may read them.
    """
    # The command line and the logs read these.
    known = {"PERDURE_STORE", "PERDURE_LOG", "PERDURE_TOKEN_FILE"}
    known |= {f"{ENVIRONMENT_PREFIX}{name}".upper() for name in _names_of(NodeOptions)}
    known |= {f"{ENVIRONMENT_PREFIX}LIMITS_{name}".upper() for name in _names_of(Limits)}
    for key in sorted(environment):
        if key.startswith(ENVIRONMENT_PREFIX) and key not in known:
            close = get_close_matches(key, known, 1)
            hint = ""
            if close:
                hint = f"; did you mean {close[0]}?"
            logger.warning("the environment has %s, which is no option of a node%s", key, hint)


def _names_of(options: type[NodeOptions | Limits]) -> set[str]:
    return {field.name for field in fields(options)}


def _whole(text: str, key: str) -> int:
    try:
        return int(text)
    except ValueError:
        msg = f"bad value in environment: {key} must be a whole number, got {text!r}"
        raise UsageError(msg) from None


def _switch(text: str, key: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        msg = f"bad value in environment: {key} must be true or false, got {text!r}"
        raise UsageError(msg)
    return values[text.lower()]


def _merged(options: NodeOptions, table: object, origin: str) -> NodeOptions:
    """The options, changed by a table of a file or of the environment."""
    changes: dict[str, Any] = {}
    for name, value in _checked(table, "node", _names_of(NodeOptions), "option", origin).items():
        if name == "queues":
            changes[name] = _queues(value, origin)
        elif name == "limits":
            changes[name] = _limits(options.limits, value, origin)
        elif name == "labels":
            changes[name] = _checked(value, "labels", None, "label", origin)
        elif name in _LISTS:
            check_kind(f"bad value in {origin}: {name}", value, list, "be a list of names")
            changes[name] = tuple(msgspec.convert(value, list[object]))
        elif name in _SWITCHES:
            check_kind(f"bad value in {origin}: {name}", value, bool, "be true or false")
            changes[name] = value
        else:
            changes[name] = _number(value, name, origin)
    return replace(options, **changes)


def _queues(table: object, origin: str) -> dict[str, int]:
    # Any name may be that of a queue.
    given = _checked(table, "queues", None, "queue", origin)
    return {name: _number(value, f"queues.{name}", origin) for name, value in given.items()}


def _limits(limits: Limits, table: object, origin: str) -> Limits:
    given = _checked(table, "limits", _names_of(Limits), "limit", origin)
    changes = {name: _number(value, f"limits.{name}", origin) for name, value in given.items()}
    return replace(limits, **changes)


def _checked(
    table: object, name: str, known: set[str] | None, kind: str, origin: str
) -> dict[str, object]:
    """A table whose keys are all known. Without `known` any key is."""
    check_kind(f"bad value in {origin}: {name}", table, dict, "be a table")
    found = msgspec.convert(table, dict[str, object])
    if known is None:
        return found
    unknown = sorted(set(found) - known)
    if unknown:
        msg = f"unknown {kind} {unknown[0]!r} in {origin}; known are {', '.join(sorted(known))}"
        raise UsageError(msg)
    return found


def _number(value: object, name: str, origin: str) -> int:
    # To Python `true` is an int.
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"bad value in {origin}: {name} must be a whole number, got {value!r}"
        raise UsageError(msg)
    return value
