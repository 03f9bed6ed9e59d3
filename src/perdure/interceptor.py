"""Interceptors: code of yours around requests of clients, around turns, and around attempts.

Subclass `Interceptor`, override the methods that you need, and give instances to
`app.node(url, interceptors=[...])` or `Client.open(url, interceptors=[...])`. The first of the list
is the outermost. An interceptor is called only for the methods that it overrides. The others cost
nothing.

Interceptors see the present, in this process. They are no part of a workflow: they run again when a
turn or an attempt does, and nothing of them is in the journal. They may read clocks and do I/O (but
see `Interceptor.turn`).
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
"""The verbs of a handle that change an instance. Verbs that only read are not intercepted.

`client.delete` and `client.prune` are a `delete` or a `prune` of each instance.
"""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request of a client to an instance, before it is sent.

    `name` is the workflow (`start`, `run`), the channel (`send`) or the event (`raise_event`),
    otherwise None. `args` and `kwargs` are the arguments of the verb, not yet encoded. An
    interceptor may pass on others, by `dataclasses.replace`. `headers` are notes from an
    interceptor to those further in. They are not stored and not sent.
    """

    verb: Verb
    id: str
    name: str | None
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict[str, object])
    headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class TurnInfo:
    """A turn of an instance.

    `messages` is the number of messages that the turn takes. The last three are known after
    `next()` only. Before, they are None, 0 and False. `commits` says whether the turn writes.
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
    """Passes everything on. Override one or more of the three methods.

    Each must call `next` to go on inwards.
    """

    async def send(self, call: Outgoing, next: NextSend) -> object:
        """Around a verb of a handle, in the process of the client.

        Return the value of `next(call)`, or another value of its type. An exception reaches the
        caller.
        """
        return await next(call)

    def turn(self, turn: TurnInfo, next: NextTurn) -> None:
        """Around a turn, on the node's loop and within its limit (`turn_limit_ms`): never block.

        When `next()` returns, nothing is durable yet. An exception before or after it discards the
        turn like an error of the kernel. The turn is taken again, and after `turn_failures` in a
        row the instance is suspended as `poison`. The same happens when `next` is not called, is
        called twice, or when its exception is swallowed.
        """
        next()

    async def activity(self, call: ActivityInfo, next: NextActivity) -> object:
        """Around each attempt of an activity on this node, within its timeouts.

        Return the value of `next()`, or another result of its type, which is then encoded. An
        exception is the failure of the attempt, and retried as the activity's policy says. A
        timeout is a `CancelledError` here. `next` may be called again, or not at all.
        `perdure.activity.info()`, `heartbeat()` and `resources()` work as in the activity.
        """
        return await next()


def overriding(
    interceptors: Iterable[Interceptor], method: Literal["send", "turn", "activity"]
) -> list[Interceptor]:
    """The interceptors that override this method, in order."""
    # By class: most interceptors override one method, and the others should cost nothing.
    default = getattr(Interceptor, method)
    return [given for given in interceptors if getattr(type(given), method) is not default]


def check_interceptors(interceptors: Iterable[object]) -> tuple[Interceptor, ...]:
    """The interceptors of a user's list.

    Raises:
        UsageError: an item is no interceptor.
    """
    checked: list[Interceptor] = []
    for given in interceptors:
        if not isinstance(given, Interceptor):
            remedy = "derive its class from Interceptor"
            if isinstance(given, type):  # an easy mistake: the class in place of an object
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
        # The handle has its rules for one verb and one id. Another request needs another handle.
        if (passed.verb, passed.id, passed.name) != (call.verb, call.id, call.name):
            msg = (
                f"an interceptor made {passed.verb} of {passed.id!r} out of {call.verb} of "
                f"{call.id!r}; it may change args, kwargs and headers only"
            )
            raise UsageError(msg)
        if index == len(interceptors):
            return innermost(passed)
        return interceptors[index].send(passed, lambda given: step(index + 1, given))

    return step(0, call)


def around_turn(interceptors: Sequence[Interceptor], turn: TurnInfo, innermost: NextTurn) -> None:
    """Take a turn inside all of them. Returns only if it was taken once and did not fail.

    Raises:
        UsageError: the turn was not taken exactly once.
    """
    # An entry per call of the innermost `next`, with its failure. An interceptor may swallow the
    # exception or call `next` again, and both must be known behind its back.
    taken: list[Exception | None] = []

    def once() -> None:
        taken.append(None)
        # The turn is not taken again. The check below tells the author of the interceptor.
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
    # The failure of the turn comes first: the count of calls may only be a consequence of it.
    if taken and taken[0] is not None:
        raise taken[0]
    if len(taken) != 1:
        msg = (
            f"interceptors called next() {len(taken)} times in a turn of {turn.instance!r}; "
            "each must call it once"
        )
        raise UsageError(msg)


def around_activity(
    interceptors: Sequence[Interceptor], call: ActivityInfo, innermost: NextActivity
) -> Awaitable[object]:
    """Run an attempt inside all of them."""

    # An interceptor may call `next` again as a retry of its own. So nothing counts the calls.
    def step(index: int) -> Awaitable[object]:
        if index == len(interceptors):
            return innermost()
        return interceptors[index].activity(call, lambda: step(index + 1))

    return step(0)
