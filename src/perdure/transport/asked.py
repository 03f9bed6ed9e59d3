"""The calls that this node has made on a link, and waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from perdure.ports.clock import Clock
from perdure.ports.transport import (
    DeadlineExceeded,
    Envelope,
    FrameTooLarge,
    HandlerFailed,
    LinkLost,
    Outcome,
    Overloaded,
    TransportError,
)
from perdure.transport.deadlines import Deadlines

# An error as a result: asyncio would log an exception that a cancelled caller never takes.
Ended: TypeAlias = bytes | TransportError


class CallFailure(msgspec.Struct, array_like=True, frozen=True):
    """How a call failed at the peer. `code` is one of the names below."""

    code: str
    text: str
    type: str = ""
    outcome: Outcome = "unknown"


_decoder = msgspec.msgpack.Decoder(CallFailure)
_encoder = msgspec.msgpack.Encoder()


def encode_failure(error: BaseException) -> bytes:
    """An error, for the peer."""
    kind = type(error).__name__
    failure = CallFailure("failed", f"{kind}: {error}"[:1_000], kind)
    if isinstance(error, TransportError):
        failure = CallFailure(kind, str(error)[:1_000], kind, error.outcome)
    return _encoder.encode(failure)


def decode_failure(body: bytes) -> TransportError:
    """The error of a call, as its caller sees it."""
    failure = _decoder.decode(body)
    text = f"at the peer: {failure.text}"
    match failure.code:
        case "Overloaded":
            return Overloaded(text)
        case "DeadlineExceeded":
            return DeadlineExceeded(text, failure.outcome)
        case "FrameTooLarge":
            return FrameTooLarge(text, failure.outcome)
        # A handler that asked a third node may have lost the link to it.
        case "LinkLost":
            return LinkLost(text, failure.outcome)
        case _:
            return HandlerFailed(text, failure.type)


class Asked:
    """Open calls by number. Each is answered once, late, or lost with its link."""

    def __init__(self, clock: Clock, peer: str, on_late: Callable[[int], None]) -> None:
        """Nothing is asked yet. `peer` is for messages. `on_late` gets calls that ended late."""
        self._clock = clock
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, tuple[asyncio.Future[Ended], int, int]] = {}
        self._deadlines = Deadlines(clock, self._late)
        self._on_late = on_late
        self._last = 0

    def begin(self, timeout_ms: int) -> tuple[int, asyncio.Future[Ended]]:
        """Open a call. Returns its number and its end."""
        self._last += 1
        number = self._last
        answer: asyncio.Future[Ended] = self._loop.create_future()
        deadline_ms = self._clock.now_ms() + timeout_ms
        slot = self._deadlines.add(number, deadline_ms)
        self._open[number] = (answer, deadline_ms, slot)
        return number, answer

    def end(self, number: int, ended: Ended) -> bool:
        """End a call. False: it has ended before."""
        found = self._open.pop(number, None)
        if found is None:
            return False
        answer, _, slot = found
        self._deadlines.drop(number, slot)
        # A caller that was cancelled in this turn of the event loop has not removed its call yet.
        if not answer.done():
            answer.set_result(ended)
        return True

    def refresh(self, envelope: Envelope) -> Envelope | None:
        """A call that has waited, with the time that is left. None: it has ended already."""
        if not envelope.left_ms:
            return envelope
        found = self._open.get(envelope.call)
        if found is None:
            return None
        left_ms = found[1] - self._clock.now_ms()
        if left_ms <= 0:
            return None
        return Envelope(envelope.kind, envelope.call, left_ms, envelope.body)

    def lose(self, why: str, unsent: Iterable[Envelope]) -> None:
        """End all calls, because the link has ended. Those in `unsent` cannot have run."""
        self._deadlines.close()
        for envelope in unsent:
            if envelope.left_ms:
                self.end(envelope.call, LinkLost(why, "none"))
        for number in list(self._open):
            self.end(number, LinkLost(why))

    def _late(self, numbers: Iterable[int]) -> None:
        text = f"no answer from {self._peer} in time"
        for number in numbers:
            self.end(number, DeadlineExceeded(text))
            self._on_late(number)
