"""An open link: the exchange of envelopes with one peer, whatever carries them.

An adapter gives it a `Pipe` to write to, and hands it what the peer has sent. All of its methods
run on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from perdure.errors import UsageError
from perdure.ports.clock import Alarm, Clock
from perdure.ports.transport import (
    OWN_KINDS,
    SILENT_INTERVALS,
    DeadlineExceeded,
    Envelope,
    FrameTooLarge,
    Garbage,
    Handler,
    LinkLost,
    Overloaded,
    Peer,
    Request,
    TransportError,
    TransportOptions,
)
from perdure.transport.asked import Asked, decode_failure, encode_failure
from perdure.transport.frame import ENVELOPE_BYTES, LENGTH_BYTES, size_of
from perdure.transport.handshake import Agreement
from perdure.transport.outgoing import Outgoing, Pipe
from perdure.transport.served import Served

logger = logging.getLogger("perdure.transport")

ANSWER = ".answer"
FAILURE = ".failure"
CANCEL = ".cancel"
PING = ".ping"
BYE = ".bye"

CLOSE_MS = 1_000
"""How long a closing link waits for a peer that does not read."""


class Exchange:
    """A link. It is made when the handshake has led to an agreement."""

    def __init__(
        self,
        pipe: Pipe,
        agreement: Agreement,
        address: str,
        handler: Handler,
        options: TransportOptions,
        clock: Clock,
    ) -> None:
        """Exchange envelopes from now on. The adapter calls `start` when it has noted the link."""
        self._pipe = pipe
        self._agreement = agreement
        self._address = address
        self._handler = handler
        self._clock = clock
        self._name = f"node {agreement.peer.node.node!r} at {address}"
        self._asked = Asked(clock, self._name, self._give_up)
        self._served = Served(handler, options.calls, self._answer)
        self._outgoing = Outgoing(pipe, options, self._asked.refresh)
        self._calls_max = options.calls
        # The array around the envelopes of a frame takes up to five bytes.
        self._envelope_bytes_max = agreement.frame_bytes - LENGTH_BYTES - 1
        self._ended: asyncio.Future[TransportError | None] = (
            asyncio.get_running_loop().create_future()
        )
        self._dropped = 0
        self._has_heard = True
        self._silent = 0
        self._written = 0
        self._taken = 0
        self._stalled = 0
        self._tick: Alarm | None = None
        self._closing: Alarm | None = None

    # ------------------------------------------------------------ the port

    @property
    def peer(self) -> Peer:
        """The node at the other end."""
        return self._agreement.peer

    @property
    def address(self) -> str:
        """Where the peer was met."""
        return self._address

    @property
    def version(self) -> int:
        """The version of the protocol that both speak."""
        return self._agreement.version

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return not self._ended.done()

    @property
    def dropped(self) -> int:
        """How often `tell` found the queue full."""
        return self._dropped

    async def call(self, kind: str, body: bytes, timeout_ms: int) -> bytes:
        """Ask the peer, and wait for its answer."""
        self._check(kind, body)
        if self._ended.done() or self._closing is not None:
            msg = f"the link to {self._name} has ended, so nothing was sent; connect again"
            raise LinkLost(msg, "none")
        if timeout_ms <= 0:
            msg = f"no time is left to ask {self._name}, so nothing was sent"
            raise DeadlineExceeded(msg, "none")
        if not self._outgoing.has_room(len(body)):
            msg = f"{self._name} reads slowly and the queue to it is full; try again later"
            raise Overloaded(msg)
        number, answer = self._asked.begin(timeout_ms)
        self._outgoing.put(Envelope(kind, number, timeout_ms, body))
        try:
            ended = await answer
        except asyncio.CancelledError:
            if self._asked.end(number, b""):
                self._give_up(number)
            raise
        if isinstance(ended, bytes):
            return ended
        raise ended

    def tell(self, kind: str, body: bytes) -> bool:
        """Send without an answer. False: it was dropped."""
        self._check(kind, body)
        if self._ended.done() or self._closing is not None:
            return False
        if not self._outgoing.has_room(len(body)):
            self._dropped += 1
            return False
        self._outgoing.put(Envelope(kind, body=body))
        return True

    async def close(self) -> None:
        """Send what waits, and hang up."""
        if not self._ended.done() and self._closing is None:
            self._closing = self._clock.call_after(CLOSE_MS, self._pipe.abort)
            self._served.close()
            self._outgoing.put(Envelope(BYE))
            self._outgoing.flush()
            self._pipe.close()
            self._asked.lose(f"this node has closed its link to {self._name}", ())
        # Shielded: a caller that gives up must not take the end from the others that wait.
        await asyncio.shield(self._ended)

    async def wait_closed(self) -> TransportError | None:
        """Wait until the link has ended."""
        return await asyncio.shield(self._ended)

    def _check(self, kind: str, body: bytes) -> None:
        if not kind or kind.startswith(OWN_KINDS):
            msg = f"{kind!r} cannot be a kind of envelope: kinds with a point are the transport's"
            raise UsageError(msg)
        # The first look is cheap, and all that most bodies need.
        if len(body) + ENVELOPE_BYTES + 4 * len(kind) > self._envelope_bytes_max:
            msg = (
                f"{kind!r} for {self._name} has {len(body):,} bytes, and a frame holds "
                f"{self._agreement.frame_bytes:,}; send less, or raise frame_bytes at the peer"
            )
            raise FrameTooLarge(msg)

    # ------------------------------------------------------------ the adapter

    def start(self) -> None:
        """Tell the handler, and begin to look for signs of life."""
        self._arm()
        try:
            self._handler.opened(self)
        except Exception:
            # The link itself is sound, so it stays.
            logger.exception("the handler failed when the link to %s was opened", self._name)

    def heard(self) -> None:
        """Bytes have come."""
        self._has_heard = True

    def pause(self) -> None:
        """The peer does not take more."""
        self._outgoing.pause()

    def resume(self) -> None:
        """The peer takes more again."""
        if not self._ended.done():
            self._outgoing.resume()

    def received(self, batch: Sequence[Envelope]) -> None:
        """Take what the peer has sent."""
        self._has_heard = True
        # A node that stood still finds a call and its cancellation together.
        given_up = {envelope.call for envelope in batch if envelope.kind == CANCEL}
        now_ms = self._clock.now_ms()
        # Answers that stand ready leave at once, in one batch.
        with self._outgoing.gathering():
            for envelope in batch:
                if self._ended.done():
                    return
                kind = envelope.kind
                if kind == ANSWER:
                    self._asked.end(envelope.call, envelope.body)
                elif kind.startswith(OWN_KINDS):
                    self._obey(envelope)
                elif not envelope.call:
                    self._take_note(envelope)
                elif self._served.is_new(envelope.call) and envelope.call not in given_up:
                    self._serve(envelope, now_ms)

    def end(self, error: TransportError | None) -> None:
        """The link is no more. Only the first call counts."""
        if self._ended.done():
            return
        if self._closing is not None:
            error = None  # however it ends, it was asked for
        self._ended.set_result(error)
        for alarm in (self._tick, self._closing):
            if alarm is not None:
                alarm.cancel()
        self._served.close()
        why = f"the link to {self._name} has ended before the answer came"
        if error is not None:
            why = str(error)
            logger.warning("the link to %s was lost: %s", self._name, error)
        self._asked.lose(why, self._outgoing.unsent())
        self._pipe.abort()
        try:
            self._handler.closed(self, error)
        except Exception:
            logger.exception("the handler failed when the link to %s had ended", self._name)

    # ------------------------------------------------------------ what comes

    def _obey(self, envelope: Envelope) -> None:
        """Take an envelope of the transport's own."""
        match envelope.kind:
            case ".failure":
                self._fail(envelope)
            case ".cancel":
                self._served.cancel(envelope.call)
            case ".bye":
                self.end(None)
            # Among them is the sign of life, which has done its work by coming. A later version may
            # have further kinds, which this one does not need to understand.
            case _:
                return

    def _fail(self, envelope: Envelope) -> None:
        try:
            error = decode_failure(envelope.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as flaw:
            self.end(Garbage(f"{self._name} sent a failure that cannot be read: {flaw}"))
            return
        self._asked.end(envelope.call, error)

    def _take_note(self, envelope: Envelope) -> None:
        try:
            self._handler.tell(self, envelope.kind, envelope.body)
        except Exception:
            # Nobody waits for an answer, so the record is all that tells of it.
            logger.exception("%r from %s could not be handled", envelope.kind, self._name)

    def _serve(self, envelope: Envelope, now_ms: int) -> None:
        number = envelope.call
        if self._closing is not None:
            return  # no answer would leave any more
        if envelope.left_ms <= 0:
            text = f"the call {envelope.kind!r} came too late, so it was not run"
            self._answer(number, DeadlineExceeded(text, "none"))
        elif self._served.is_full:
            text = f"{self._calls_max:,} calls of this peer run already; try again later"
            self._answer(number, Overloaded(text))
        elif not self._outgoing.has_room(0):
            text = "answers wait until this peer reads them, so the call was not run"
            self._answer(number, Overloaded(text))
        else:
            request = Request(self, envelope.kind, envelope.body, now_ms + envelope.left_ms)
            self._served.run(number, request)

    # ------------------------------------------------------------ what goes

    def _give_up(self, number: int) -> None:
        if not self._ended.done():
            self._reply(Envelope(CANCEL, number))

    def _answer(self, number: int, ended: bytes | BaseException) -> None:
        if self._ended.done() or self._closing is not None:
            return
        if isinstance(ended, bytes):
            ended = self._fitting(ended)
        if isinstance(ended, bytes):
            self._reply(Envelope(ANSWER, number, body=ended))
        else:
            if not isinstance(ended, TransportError):
                logger.error("a call of %s has failed here", self._name, exc_info=ended)
            self._reply(Envelope(FAILURE, number, body=encode_failure(ended)))

    def _fitting(self, body: bytes) -> bytes | TransportError:
        """The answer, or the error in its place when it cannot be sent."""
        if size_of(Envelope(ANSWER, body=body)) > self._envelope_bytes_max:
            text = f"the call has run, and its answer of {len(body):,} bytes does not fit a frame"
            return FrameTooLarge(text, "unknown")
        if not self._outgoing.has_room(len(body), 2):
            return LinkLost("the call has run, and its answer found the queue full", "unknown")
        return body

    def _reply(self, envelope: Envelope) -> None:
        """Send what the peer is owed. That has twice the room, so that calls do not displace it."""
        if self._outgoing.has_room(0, 2):
            self._outgoing.put(envelope)
        else:
            self.end(LinkLost(f"{self._name} does not read, and more than the queue holds waits"))

    # ------------------------------------------------------------ signs of life

    def _arm(self) -> None:
        self._tick = self._clock.call_after(self._agreement.keep_alive_ms, self._look)

    def _look(self) -> None:
        """Look, once in each interval, whether the peer lives, and give it a sign of life."""
        # Looks are counted and not time. After a stop of this process what the peer has sent
        # meanwhile is read between two looks.
        self._silent += 1
        if self._has_heard:
            self._silent = 0
        self._has_heard = False
        taken = self._pipe.taken_bytes()
        self._stalled += 1
        if taken != self._taken or not self._pipe.unsent_bytes():
            self._stalled = 0
        self._taken = taken
        interval_ms = self._agreement.keep_alive_ms
        if self._silent >= SILENT_INTERVALS:
            self.end(LinkLost(f"nothing came for {self._silent * interval_ms:,} ms"))
        elif self._stalled >= SILENT_INTERVALS:
            self.end(LinkLost(f"the peer has read nothing for {self._stalled * interval_ms:,} ms"))
        else:
            if self._outgoing.written == self._written:
                self._outgoing.put(Envelope(PING))
            self._written = self._outgoing.written
            self._arm()
