"""Handles: one instance by its id, to start it, wait for it, talk to it and read it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, cast, overload

from perdure.client.deletion import delete, keep, prune
from perdure.client.description import Description, HistoryEvent, describe_row, events_of
from perdure.client.gateway import Begun, Gateway, find_unit
from perdure.client.sending import check_key, check_sent, keyed_id, too_large
from perdure.client.tree import Tree, read_tree
from perdure.closing import check_not_held, too_late, value_of
from perdure.codec import TypeCodec, decode, encode
from perdure.errors import (
    NotFound,
    NotRunning,
    clean_text,
)
from perdure.interceptor import Interceptor, Outgoing, Verb, around_send
from perdure.kernel.data import message as msg
from perdure.kernel.data.commit import CLOSED, Status, UnitRow
from perdure.kernel.data.definition import check_label, check_text
from perdure.kernel.data.placement import check_id
from perdure.kernel.data.retry import Seconds, to_ms
from perdure.ports.store import Executions, Journal, KvEntries
from perdure.workflow import Channel

A = ParamSpec("A")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
AsType: TypeAlias = type[T]


class Handle(Generic[R_co]):
    """An instance by its id: everything but starting it.

    An id may have several lives: `if_exists="replace"`, or a start after a delete, makes a new run
    of it. A handle that has started (or joined) a run means that run in `result`, `wait`, `cancel`
    and `terminate`, until it starts another one. A handle from `client.get(id)` means the run that
    is current at each call. All other methods are about the run that has the id.
    """

    def __init__(
        self,
        gateway: Gateway,
        id: str,
        result: TypeCodec[Any] | None,
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        """Made by a client."""
        self._gateway = gateway
        self.id = check_id(id)
        self._result_codec: TypeCodec[R_co] | None = result
        self._interceptors = interceptors
        self._begun: Begun | None = None

    async def result(
        self, *, timeout: Seconds | None = None, through_suspension: bool = False
    ) -> R_co:
        """Wait for the end and return the result. The result follows continue-as-new.

        It is the result of the run that this handle started or joined. A handle that started
        nothing waits for the run that has the id now. The wait ends, too, when the instance is
        suspended and not paused: it cannot go on then until people act. `through_suspension` waits
        on.

        Raises:
            Suspended: it is suspended. The error has the reason and the remedy.
            NotFound: no instance has this id, or the run is gone: deleted, or replaced before its
                end was seen.
            WorkflowFailed, WorkflowCancelled, WorkflowTerminated: it ended without a result. A run
                that is replaced or deleted before it has ended is terminated.
            AlreadyStarted: the start was posted by a client that stands alone on a store, and
                another run has the id.
            Timeout: it has not ended in time. It goes on.
        """
        row = await self._end(timeout, through_suspension)
        return value_of(row, self._result_codec)

    async def wait(
        self, *, timeout: Seconds | None = None, through_suspension: bool = False
    ) -> Description:
        """Wait for the end and describe it. It waits for the same run as `result`.

        Raises:
            Suspended, NotFound, AlreadyStarted, Timeout: as `result`.
        """
        row = await self._end(timeout, through_suspension)
        check_not_held(row)
        return describe_row(row)

    async def _end(self, timeout: Seconds | None, through_suspension: bool) -> UnitRow:
        """The row of the run that is meant, when it has ended or is held."""
        limit_ms: int | None = None
        if timeout is not None:
            limit_ms = to_ms(timeout, "timeout")
        ending = self._gateway.closed(self.id, self._begun, through_suspension=through_suspension)
        if limit_ms is None:
            return await ending
        # The wait of the caller is limited, not the workflow, so nothing is sent to it.
        try:
            async with asyncio.timeout(limit_ms / 1000):
                return await ending
        except TimeoutError:
            raise await too_late(self._gateway.store, self.id, limit_ms) from None

    async def _run_meant(self) -> bytes | None:
        """The run that a request to stop is for.

        None: the one that has the id when the request arrives.

        A start that was posted may join a run that is there by then. That run is in the store
        already, or made by the first start that waits. A run that fits neither is not this
        handle's, so it is not stopped.
        """
        begun = self._begun
        if begun is None:
            return None
        if begun.twin is not None:
            # NotFound: the run is gone, and the request has no effect on the next one.
            with suppress(NotFound):
                found = await find_unit(self._gateway.store, self.id)
                if begun.may_have_joined(found.row):
                    return found.row.run
        return begun.run

    async def _send(self, body: msg.AnyBody) -> None:
        now = self._gateway.clock.now_ms()
        message = msg.Message(os.urandom(16), self.id, body, now)
        outcome = await self._gateway.send(message)
        if outcome != "ok":  # asked here, because each message comes by
            check_sent(self.id, outcome)

    async def _send_once(self, body: msg.Send, key: str) -> None:
        """Send a message that the store drops if it has seen the key in this channel."""
        now = self._gateway.clock.now_ms()
        message = msg.Message(keyed_id(self.id, body.channel, key), self.id, body, now)
        # By the inbox, because only the store knows a message that was taken before.
        check_sent(self.id, await self._gateway.post(message))

    @overload
    async def send(self, channel: Channel[T], value: T, /, *, key: str | None = None) -> None: ...
    @overload
    async def send(self, channel: str, value: object, /, *, key: str | None = None) -> None: ...
    async def send(self, channel: Any, value: Any, /, *, key: str | None = None) -> None:
        """Put a message into a channel: durable when this returns, buffered until the workflow
        receives it.

        A `key`, such as the id of a webhook's event, makes it count once: another message with the
        same key in this channel of this id has no effect while the first one waits, and for the
        store's `dedupe_ms` (a day) after it was taken.

        Raises:
            NotFound, NotRunning, InboxFull: nothing was sent.
            PayloadError: the value is not data or does not fit the channel's type.
        """
        if not self._interceptors:  # `_ask`, written out
            await self._send_value(channel, value, key=key)
            return
        name = str(getattr(channel, "name", channel))
        if key is None:
            await self._ask("send", name, self._send_value, channel, value)
        else:
            await self._ask("send", name, self._send_value, channel, value, key=key)

    def _send_value(
        self, channel: Any, value: Any, *, key: str | None = None
    ) -> Coroutine[object, object, None]:
        body = self._send_body(channel, value)
        if key is None:
            return self._send(body)
        return self._send_once(body, check_key(key))

    def _send_body(self, channel: Any, value: Any) -> msg.Send:
        if isinstance(channel, Channel):
            typed: Channel[Any] = channel  # pyright: ignore[reportUnknownVariableType]
            codec = typed.codec
            name = channel.name
            data = codec.encode(value)
            # The sender learns that a value does not fit. The receiver could only fail.
            codec.decode(data)
        else:
            name = check_label(channel, "a channel")
            data = encode(value)
        if len(data) > self._gateway.limits.payload_bytes:
            raise too_large(self._gateway.limits, data, f"the message for channel {name!r}")
        return msg.Send(name, data)

    async def raise_event(self, name: str, value: object = None) -> None:
        """Raise a positional event.

        A workflow that waits for it now takes it. Otherwise it is only recorded.
        """
        await self._ask("raise_event", name, self._raise_event, name, value)

    async def _raise_event(self, name: str, value: object) -> None:
        data = encode(value)
        if len(data) > self._gateway.limits.payload_bytes:
            raise too_large(self._gateway.limits, data, f"the event {name!r}")
        await self._send(msg.Raise(check_label(name, "an event"), data))

    def _ask(
        self,
        verb: Verb,
        name: str | None,
        act: Callable[A, Awaitable[T]],
        *args: A.args,
        **kwargs: A.kwargs,
    ) -> Awaitable[T]:
        """Carry out a verb, inside the interceptors if there are any."""
        if not self._interceptors:
            return act(*args, **kwargs)
        verb_itself: Callable[..., Awaitable[object]] = act

        # Called with the arguments that the interceptors pass on, which may be others.
        def innermost(call: Outgoing) -> Awaitable[object]:
            return verb_itself(*call.args, **call.kwargs)  # pyright: ignore[reportCallIssue]

        outgoing = Outgoing(verb, self.id, name, args, kwargs)
        answer = around_send(self._interceptors, outgoing, innermost)
        # An interceptor returns the value of `next`, or another value of its type.
        return cast("Awaitable[T]", answer)

    async def cancel(self, reason: str = "") -> None:
        """Ask it to stop: `CancelledError` is raised where it waits, and it may clean up.

        An instance that has ended stays as it is. A handle that has started or joined a run asks
        that run only: it never stops another life of the id.
        """
        await self._ask("cancel", None, self._cancel, reason)

    async def _cancel(self, reason: str) -> None:
        await self._quietly(msg.Cancel(clean_text(reason), await self._run_meant()))

    async def terminate(self, reason: str = "") -> None:
        """End it at once, without asking its code: no `finally` runs, and nothing is undone.

        Its running activities are cancelled, and its children as their `parent_close` says. An
        instance that has ended stays as it is. A handle that has started or joined a run ends that
        run only, as with `cancel`.
        """
        await self._ask("terminate", None, self._terminate, reason)

    async def _terminate(self, reason: str) -> None:
        await self._quietly(msg.Terminate(clean_text(reason), await self._run_meant()))

    async def pause(self, reason: str = "") -> None:
        """Stop delivering to it: its status is `suspended`, its reason `paused`.

        Messages, results and timers that come meanwhile are kept. It is about the run that has the
        id. An instance that has ended stays as it is.
        """
        await self._ask("pause", None, self._pause, reason)

    async def _pause(self, reason: str) -> None:
        await self._quietly(msg.Pause(clean_text(reason)))

    async def resume(self) -> None:
        """Go on after `pause`, with the messages that came meanwhile.

        An instance that is not paused stays as it is.
        """
        await self._ask("resume", None, self._resume)

    async def _resume(self) -> None:
        await self._quietly(msg.Resume())

    async def retry(self) -> None:
        """Try an instance again that is `suspended` for another reason than `paused`.

        After a deploy it is tried again by itself. With the reason `poison` it waits for this call.
        """
        await self._ask("retry", None, self._retry)

    async def _retry(self) -> None:
        await self._quietly(msg.Retry())

    async def _quietly(self, body: msg.AnyBody) -> None:
        # NotRunning: it has ended, and nothing is left to control.
        with suppress(NotRunning):
            await self._send(body)

    async def describe(self) -> Description:
        """Describe it as it is stored: type, version, status, reason, times, sizes, failure.

        Raises:
            NotFound: no instance has this id.
        """
        return describe_row((await find_unit(self._gateway.store, self.id)).row)

    async def status(self) -> Status:
        """`pending`, `running`, `suspended`, `completed`, `failed` or `cancelled`."""
        return (await self.describe()).status

    async def custom_status(
        self, as_type: type[T], *, after_version: int = -1, timeout: Seconds = 0
    ) -> tuple[T | None, int]:
        """The custom status and its version.

        Waits up to `timeout` until the version is higher than `after_version`.
        """
        deadline_ms = self._gateway.clock.now_ms() + to_ms(timeout, "timeout")
        while True:
            view = await find_unit(self._gateway.store, self.id)
            description = describe_row(view.row)
            left_ms = deadline_ms - self._gateway.clock.now_ms()
            is_new = description.custom_status_version > after_version
            # The status of an instance that has ended does not change any more.
            if is_new or left_ms <= 0 or description.status in CLOSED:
                return description.custom_status(as_type), description.custom_status_version
            await self._gateway.changed(self.id, view.version, left_ms)

    async def kv(self) -> dict[str, object]:
        """All entries of its key-value store, as plain data. They stay after its end.

        Raises:
            NotFound: no instance has this id.
        """
        entries: dict[str, object] = {}
        after: str | None = None
        while True:
            page = await self._gateway.store.query(KvEntries(unit=self.id, after=after))
            entries |= {k: decode(v) for k, v in page.items}
            after = page.next
            if after is None:
                break
        if not entries:
            # No entries may mean that there is no such instance. This look raises NotFound then.
            await find_unit(self._gateway.store, self.id)
        return entries

    async def kv_get(self, key: str, as_type: type[T]) -> T | None:
        """The value of one key, as this type. None if it has none.

        Raises:
            NotFound: no instance has this id.
            DecodeError: the value is of another type.
            UsageError: no instance can have such a key.
        """
        check_text(key, "a KV key")
        page = await self._gateway.store.query(KvEntries(unit=self.id, keys=(key,)))
        if not page.items:
            # Raises NotFound where the instance is missing, too.
            await find_unit(self._gateway.store, self.id)
            return None
        codec: TypeCodec[T] = TypeCodec(as_type, f"KV value {key!r} of {self.id!r}")
        return codec.decode(page.items[0][1])

    async def kv_wait(self, key: str, as_type: AsType[T], *, timeout: Seconds) -> T | None:
        """Wait until a key has a value.

        None: it has none in time, or the instance has ended without one.
        """
        deadline_ms = self._gateway.clock.now_ms() + to_ms(timeout, "timeout")
        while True:
            # The row is read before the key: a value that is written in between changes the row's
            # version, so that the wait below ends at once.
            view = await find_unit(self._gateway.store, self.id)
            value = await self.kv_get(key, as_type)
            left_ms = deadline_ms - self._gateway.clock.now_ms()
            if value is not None or left_ms <= 0 or view.row.status in CLOSED:
                return value
            await self._gateway.changed(self.id, view.version, left_ms)

    async def history(self, execution: int | None = None) -> list[HistoryEvent]:
        """The events of an execution (default: the current one), oldest first.

        Raises:
            NotFound: no instance has this id.
            DecodeError: some are damaged, or of a newer release.
        """
        return [e async for e in self.iterate_history(execution)]

    async def iterate_history(self, execution: int | None = None) -> AsyncIterator[HistoryEvent]:
        """The same, one by one and read in pages.

        Raises:
            NotFound: no instance has this id.
            DecodeError: the events that follow are damaged, or of a newer release.
        """
        wanted = (await self.describe()).execution  # also raises NotFound
        if execution is not None:
            wanted = execution
        after: str | None = None
        while True:
            page = await self._gateway.store.query(
                Journal(unit=self.id, execution=wanted, after=after)
            )
            for chunk in page.items:
                for entry in events_of(self.id, wanted, chunk):
                    yield entry
            if page.next is None:
                return
            after = page.next

    async def executions(self) -> list[int]:
        """Numbers of all executions whose history is kept, oldest first."""
        numbers: list[int] = []
        after: str | None = None
        while True:
            page = await self._gateway.store.query(Executions(unit=self.id, after=after))
            numbers += [e.execution for e in page.items]
            if page.next is None:
                break
            after = page.next
        # The store lists ended executions only.
        return [*numbers, (await self.describe()).execution]

    async def tree(self) -> Tree:
        """It and its children, their children, and so on.

        Raises:
            NotFound: no instance has this id.
        """
        return await read_tree(self._gateway.store, self.id)

    async def delete(self, *, force: bool = False, forget: bool = False, reason: str = "") -> int:
        """Remove it and its descendants, with their histories. Returns the number of instances.

        Running instances are refused unless `force=True`, which terminates them first, with the
        reason. A duplicate of the original start is ignored for a day after that start (the store's
        `dedupe_ms`), unless `forget=True`. Delete is about the run that has the id, and the id is
        free at once. Through a client that stands alone on a store this is a request, which the
        store's node carries out.

        Raises:
            NotFound: no instance has this id.
            StillRunning: it or a descendant has not ended. Nothing was removed.
            HasParent: it is a child. Nothing was removed, but `force` would remove it.
        """
        return await self._ask(
            "delete", None, self._delete, force=force, forget=forget, reason=reason
        )

    async def _delete(self, *, force: bool, forget: bool, reason: str) -> int:
        return await delete(
            self._gateway, self.id, msg.Delete(force, forget, True, clean_text(reason))
        )

    async def prune(
        self, *, keep_last: int | None = None, closed_before: datetime | None = None
    ) -> list[int]:
        """Remove the histories of executions that ended by continue-as-new. Returns their numbers.

        `keep_last` executions stay (the current one counts), and so do those that ended at
        `closed_before` or later. Give one of them, or both. With both, an execution goes only if
        both let it go. The current one always stays.

        Raises:
            NotFound: no instance has this id.
            UsageError: neither is given, or one has an impossible value.
        """
        return await self._ask(
            "prune", None, self._prune, keep_last=keep_last, closed_before=closed_before
        )

    async def _prune(self, *, keep_last: int | None, closed_before: datetime | None) -> list[int]:
        return await prune(self._gateway, self.id, keep(keep_last, closed_before))

    def __repr__(self) -> str:
        """Name it."""
        return f"<{type(self).__name__} {self.id!r}>"
