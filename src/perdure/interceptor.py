"""Interceptors: code of yours around what clients ask, around turns, and around attempts of activities.

Subclass `Interceptor`, override what you need, and give instances to `app.node(url, interceptors=[...])` or
`Client.open(url, interceptors=[...])`. The first of the list is the outermost. Who overrides nothing at a place is not
called there, and with no interceptor at a place nothing is wrapped there.

Interceptors see what happens now, in this process. They are no part of a workflow: they run again when a turn or an
attempt does, nothing of them is in the journal, and they may read clocks and do I/O (but see `Interceptor.turn`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from perdure.activity import ActivityInfo
from perdure.errors import UsageError

__all__ = ["ActivityInfo", "Interceptor", "Outgoing", "TurnInfo", "Verb"]

Verb = Literal[
    "start",
    "run",
    "send",
    "raise_event",
    "cancel",
    "terminate",
    "pause",
    "resume",
    "retry",
    "delete",
    "prune",
]
"""The verbs of a handle that ask something of an instance. Those that only read are not intercepted.

`client.delete` and `client.prune` are a `delete` or a `prune` of each instance that they are about.
"""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What a client is about to ask of an instance.

    `name` is the workflow (`start`, `run`), the channel (`send`) or the event (`raise_event`), otherwise None. `args`
    and `kwargs` are those of the verb, not yet encoded: an interceptor may pass on others, by `dataclasses.replace`.
    `headers` are notes from an interceptor to those further in; they are not stored and do not travel.
    """

    verb: Verb
    id: str
    name: str | None
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict[str, object])
    headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class TurnInfo:
    """A turn of an instance. The last three are known after `next()` only: before, they are None, 0 and False.

    `messages` is the number of messages that the turn takes, `commits` whether there is something to write.
    """

    instance: str
    messages: int
    workflow: str | None = None
    execution: int = 0
    commits: bool = False


NextSend: TypeAlias = Callable[[Outgoing], Awaitable[object]]
NextTurn: TypeAlias = Callable[[], None]
NextActivity: TypeAlias = Callable[[], Awaitable[object]]


class Interceptor:
    """Passes everything on. Override one or more of the three methods; each must call `next` to go on inwards."""

    async def send(self, call: Outgoing, next: NextSend) -> object:
        """Around a verb of a handle, in the process of the client.

        Return what `next(call)` returns, or a value of the same type instead. What is raised reaches the caller.
        """
        return await next(call)

    def turn(self, turn: TurnInfo, next: NextTurn) -> None:
        """Around a turn, on the node's loop and within the turn's limit (`turn_limit_ms`): be quick, never block.

        When `next()` returns, nothing is durable yet. What is raised, before or after it, discards the turn like an
        error of the kernel: it is taken again, and after `turn_failures` in a row the instance is set aside as
        `poison`. Not calling `next`, calling it twice, or swallowing what it raises is the same.
        """
        next()

    async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
        """Around each attempt of an activity on this node, within its timeouts. A timeout is a `CancelledError` here.

        Return what `next()` returns, or another result of the same type, which is then encoded. What is raised is the
        failure of the attempt, and retried as the activity's policy says. `next` may be called again, or not at all.
        `perdure.activity.info()`, `heartbeat()` and `resources()` work as in the activity.
        """
        return await next()


def overriding(
    interceptors: Iterable[Interceptor], method: Literal["send", "turn", "activity"]
) -> list[Interceptor]:
    """Those that do something at this place, in order."""
    default = getattr(Interceptor, method)
    return [i for i in interceptors if getattr(type(i), method) is not default]


def check_interceptors(interceptors: Iterable[object]) -> tuple[Interceptor, ...]:
    """What a user gave, once it is known to be interceptors.

    Raises:
        UsageError: something in it is none.
    """
    checked: list[Interceptor] = []
    for given in interceptors:
        if not isinstance(given, Interceptor):
            remedy = "derive its class from Interceptor"
            if isinstance(given, type):
                remedy = "give an object, not its class"
            msg = f"{given!r} in interceptors= is no interceptor; {remedy}"
            raise UsageError(msg)
        checked.append(given)
    return tuple(checked)


def around_send(
    interceptors: Sequence[Interceptor], call: Outgoing, innermost: NextSend
) -> Awaitable[object]:
    """Pass a call through all of them to the verb itself."""

    def step(index: int, passed: Outgoing) -> Awaitable[object]:
        if (passed.verb, passed.id, passed.name) != (call.verb, call.id, call.name):
            msg = (
                f"an interceptor made {passed.verb} of {passed.id!r} out of {call.verb} of {call.id!r}; "
                "it may change args, kwargs and headers only"
            )
            raise UsageError(msg)
        if index == len(interceptors):
            return innermost(passed)
        return interceptors[index].send(passed, lambda given: step(index + 1, given))

    return step(0, call)


def around_turn(interceptors: Sequence[Interceptor], turn: TurnInfo, innermost: NextTurn) -> None:
    """Take a turn inside all of them. Returns only if it was taken, once, and nobody hid its failure."""
    taken: list[Exception | None] = []  # an entry per call of the innermost `next`: its failure

    def once() -> None:
        taken.append(None)
        if len(taken) > 1:
            return
        try:
            innermost()
        except Exception as error:
            taken[0] = error
            raise

    def step(index: int) -> None:
        if index == len(interceptors):
            once()
        else:
            interceptors[index].turn(turn, lambda: step(index + 1))

    step(0)
    if taken and taken[0] is not None:
        raise taken[0]
    if len(taken) != 1:
        msg = f"interceptors called next() {len(taken)} times in a turn of {turn.instance!r}; each must call it once"
        raise UsageError(msg)


def around_activity(
    interceptors: Sequence[Interceptor], call: ActivityInfo, innermost: NextActivity
) -> Awaitable[object]:
    """Run an attempt inside all of them."""

    def step(index: int) -> Awaitable[object]:
        if index == len(interceptors):
            return innermost()
        return interceptors[index].activity(call, lambda: step(index + 1))

    return step(0)
