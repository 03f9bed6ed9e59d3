"""Messages: channels, positional events, and what a workflow sends to other instances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from perdure.codec import TypeCodec, encode
from perdure.errors import clean_text
from perdure.kernel.data.definition import check_label
from perdure.kernel.data.placement import check_id
from perdure.kernel.execution import commands
from perdure.workflow.caller import caller as _run

if TYPE_CHECKING:
    pass


T = TypeVar("T")
A = TypeVar("A")


class Channel(Generic[T]):
    """A named, typed stream of messages into an instance, first in, first out.

    Both ends use the same object: `approved = workflow.Channel[bool]("approved")`, then
    `await approved.receive()` in the workflow and `await handle.send(approved, True)` outside.
    Messages are buffered from the moment the instance exists and survive continue-as-new.
    """

    def __init__(self, name: str, type: type[T] | None = None) -> None:
        """`type` is needed only without the subscript: `Channel("approved", bool)`."""
        self.name = check_label(name, "a channel")
        self._type: Any = type

    @cached_property
    def codec(self) -> TypeCodec[T]:
        """The codec of its values."""
        # Made at the first use: Python notes the subscript of `Channel[bool](...)` on the object
        # only after `__init__`.
        declared = self._type
        if declared is None:
            subscripted = getattr(self, "__orig_class__", None)
            declared = next(iter(getattr(subscripted, "__args__", ())), Any)
        return TypeCodec(declared, f"message of channel {self.name!r}")

    def message(self, value: T, *, key: str | None = None) -> ChannelMessage:
        """A message with this value, for `handle.start_and_send`. Nothing is sent yet.

        `key` is that of `handle.send`.
        """
        return ChannelMessage(self, value, key)

    async def receive(self) -> T:
        """Take the next message, waiting for it if there is none."""
        value: T = await commands.wait(_run("receive()"), self.name, self.codec, positional=False)
        return value

    def __repr__(self) -> str:
        """Name it."""
        return f"Channel({self.name!r})"


@dataclass(frozen=True, slots=True)
class ChannelMessage:
    """A message that is not sent yet: its channel, its value, and its key if it has one."""

    channel: Channel[Any]
    value: object
    key: str | None = None


async def receive(channel: str, type: type[T], /) -> T:
    """Take the next message of a channel whose name is known only at run time."""
    return await Channel(channel, type).receive()


async def wait_event(name: str, type: type[T], /) -> T:
    """Wait for a positional event. Events are not buffered.

    The n-th active wait for a name takes the n-th event raised after it.
    """
    codec: TypeCodec[T] = TypeCodec(type, f"event {name!r}")
    value: T = await commands.wait(
        _run("wait_event()"), check_label(name, "an event"), codec, positional=True
    )
    return value


@overload
def send(id: str, channel: Channel[T], value: T, /) -> None: ...
@overload
def send(id: str, channel: str, value: object, /) -> None: ...
def send(id: str, channel: Any, value: Any, /) -> None:
    """Send a message to another instance. It leaves when this turn is durable."""
    run = _run("send()")
    if isinstance(channel, Channel):
        typed: Channel[Any] = channel  # pyright: ignore[reportUnknownVariableType]
        codec = typed.codec
        data = codec.draft(value)
        commands.send_message(run, check_id(id), channel.name, data, lambda: codec.check(data))
    else:
        name = check_label(channel, "a channel")
        data = encode(value)
        commands.send_message(run, check_id(id), name, data, lambda: None)


def cancel(id: str, reason: str = "") -> None:
    """Ask another instance to stop. The request leaves when this turn is durable."""
    commands.send_cancel(_run("cancel()"), check_id(id), clean_text(reason))
