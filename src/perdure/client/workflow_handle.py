"""Handles of workflows: starting an instance, alone or together with its first message."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, ParamSpec, TypeVar

from perdure.client.bulk import PreparedStart
from perdure.client.first_message import send_or_start
from perdure.client.gateway import Began, Begun, Gateway
from perdure.client.handle import Handle
from perdure.client.pins import in_group
from perdure.client.sending import check_key, check_sent, inbox_full, keyed_id, too_large
from perdure.closing import value_of
from perdure.codec import encode
from perdure.errors import AlreadyStarted, InboxFull, NotRunning, UsageError
from perdure.interceptor import Interceptor, Outgoing, around_send
from perdure.kernel.data import message as msg
from perdure.kernel.data.attributes import (
    AttributeValue,
    check_attributes,
    encode_attributes,
    merged,
)
from perdure.kernel.data.definition import check_name
from perdure.kernel.data.retry import Seconds, to_ms
from perdure.kernel.unit.turn import Outcome
from perdure.workflow import ChannelMessage, Workflow

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

IfExists = Literal["join", "reject", "replace", "renew"]


class WorkflowHandle(Handle[R_co], Generic[P, R_co]):
    """A workflow instance that can be started. Its arguments are those of the workflow."""

    def __init__(
        self,
        gateway: Gateway,
        definition: Workflow[P, R_co] | str,
        id: str,
        *,
        if_exists: IfExists,
        delay: Seconds | None,
        version: str | None,
        attributes: Mapping[str, AttributeValue] | None,
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        """Made by a client."""
        if isinstance(definition, str):
            codec = None
        else:
            codec = definition.definition.signature.result
        super().__init__(gateway, id, codec, interceptors)
        self._definition = definition
        self._if_exists: IfExists = if_exists
        if delay is not None:
            self._delay_ms = to_ms(delay, "delay")
        else:
            self._delay_ms = 0
        self._version = version
        if attributes:
            self._attributes = merged(None, encode_attributes(attributes, removing=False))
        else:
            self._attributes = None
        check_attributes(self._attributes, gateway.limits)

    def _message(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> msg.Message:
        definition = self._definition
        if isinstance(definition, str):
            if kwargs:
                msg_ = (
                    f"a start of {definition!r} by name takes positional arguments only: "
                    "its parameters are not known here"
                )
                raise UsageError(msg_)
            name = check_name(definition, "a workflow")
            data = encode(list(args))
        else:
            name = definition.name
            signature = definition.definition.signature
            data = signature.draft(args, kwargs)
            signature.check(data)
        if len(data) > self._gateway.limits.payload_bytes:
            raise too_large(self._gateway.limits, data, f"the input of workflow {name!r}")
        now = self._gateway.clock.now_ms()
        visible_at = 0  # at once
        if self._delay_ms:
            visible_at = now + self._delay_ms
        body = msg.Start(name, self._version, data, None, self._if_exists, self._attributes)
        message = msg.Message(os.urandom(16), self.id, body, now, visible_at)
        return in_group(message, definition, self._gateway.store)

    async def start(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Start it: durable when this returns. The id makes it idempotent.

        `if_exists` of `client.workflow` decides about an id that is taken.

        Raises:
            AlreadyStarted: the id is taken by another type or input, or `if_exists="reject"`.
            PayloadError: an argument is not data or does not fit.
        """
        await self._ask("start", self._workflow_name, self._start, *args, **kwargs)

    async def _start(self, *args: P.args, **kwargs: P.kwargs) -> None:
        message = self._message(args, kwargs)
        before = self._begun
        # A start that is interrupted may have happened, or not. Until it is known, the handle means
        # the run that has the id.
        self._begun = None
        began = await self._gateway.begin(message)
        self._begun = before
        self._settle(began)

    def _settle(self, began: Began) -> None:
        """Mean the run of a start from now on, unless it was refused.

        Raises:
            AlreadyStarted, InboxFull: it was refused.
        """
        outcome, begun = began
        self._check_outcome(outcome)
        self._begun = begun

    async def start_and_send(
        self, message: ChannelMessage, /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Send a message, and start the instance before it if there is none: both or neither.

        `await cart.start_and_send(items.message(item), "customer-3")`. Where the workflow runs
        already, it gets the message only, whatever input it was started with. Callers that come at
        the same time start it once, and each message is received. A message with a key counts
        once, and a repeated one starts nothing.

        `if_exists` of `client.workflow` decides about an id that is taken. With `"join"` an
        instance that has ended is an error. `"renew"` starts it anew then. `"replace"` always
        starts anew. `"reject"` would refuse what this method is for, and is an error.

        Raises:
            NotRunning: the instance has ended, with `if_exists="join"`. Nothing was sent.
            AlreadyStarted: another workflow has the id. Nothing was sent.
            InboxFull: the message was not sent.
            PayloadError: the message or an argument is not data or does not fit.
        """
        if self._if_exists == "reject":
            text = (
                "start_and_send() sends to the instance that is there, so if_exists='reject' "
                "cannot be asked for; use 'join', 'renew' or 'replace'"
            )
            raise UsageError(text)
        if not self._interceptors:
            await self._start_and_send(message.channel, message.value, message.key, args, kwargs)
            return
        named = {}
        if message.key is not None:
            named = {"key": message.key}
        sending = (message.channel, message.value)
        sent = Outgoing("send", self.id, message.channel.name, sending, named)

        # A message inside of a start: interceptors see both, as of two calls.
        async def starts(send: Outgoing) -> object:
            async def both(start: Outgoing) -> None:
                channel, value = send.args
                key = send.kwargs.get("key")
                await self._start_and_send(channel, value, key, start.args, dict(start.kwargs))

            start = Outgoing("start", self.id, self._workflow_name, args, kwargs)
            return await around_send(self._interceptors, start, both)

        await around_send(self._interceptors, sent, starts)

    async def _start_and_send(
        self,
        channel: object,
        value: object,
        key: object,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        body = self._send_body(channel, value)
        start = self._message(args, kwargs)
        sent_id = os.urandom(16)
        if key is not None:
            sent_id = keyed_id(self.id, body.channel, check_key(key))
        message = msg.Message(sent_id, self.id, body, start.at)
        before = self._begun
        self._begun = None  # as in `_start`
        outcome, self._begun = await send_or_start(
            self._gateway, start, message, is_keyed=key is not None
        )
        if outcome != "ok":
            self._begun = before
        self._check_outcome(outcome)
        if outcome == "closed":
            text = (
                f"{self.id!r} has ended; nothing was sent to it. With if_exists='renew' it is "
                "started anew"
            )
            raise NotRunning(text)
        check_sent(self.id, outcome)

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> PreparedStart:
        """A start with these arguments, for `client.start_many`. Nothing is checked or sent yet."""
        return PreparedStart(
            self.id,
            lambda: self._message(args, kwargs),
            self._settle,
            lambda: self.start(*args, **kwargs),
            is_intercepted=bool(self._interceptors),
        )

    async def run(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Start it and wait for the result of the run that this start made or joined.

        Raises the errors of `start` and `result`. To wait through a suspension, call these two.
        """
        return await self._ask("run", self._workflow_name, self._run, *args, **kwargs)

    async def _run(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        message = self._message(args, kwargs)
        before = self._begun
        self._begun = None  # as in `_start`
        outcome, row = await self._gateway.run(message)
        if row is not None:
            self._begun = Begun(row.run)
        else:
            self._begun = before
        self._check_outcome(outcome)
        assert row is not None
        return value_of(row, self._result_codec)

    @property
    def _workflow_name(self) -> str:
        if isinstance(self._definition, str):
            return self._definition
        return self._definition.name

    def _check_outcome(self, outcome: Outcome) -> None:
        if outcome == "full":
            raise InboxFull(inbox_full(self.id))
        if outcome == "exists":
            name = self._workflow_name
            if self._if_exists == "reject":
                rule = "and if_exists='reject' was asked for"
            else:
                rule = f"by another workflow or with another input than this start of {name!r}"
            msg_ = f"the id {self.id!r} is taken {rule}; use another id, or if_exists='replace'"
            raise AlreadyStarted(msg_)
