"""Frames: what a stream of bytes is cut into.

A frame is its length in four bytes, the most significant first, and as many bytes of MessagePack:
one message of the handshake, or an array of envelopes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from perdure.ports.transport import Envelope, FrameTooLarge, Garbage

LENGTH_BYTES = 4
GREETING_BYTES_MAX = 4 << 10
"""The largest frame of a peer that has not shown yet who it is."""
BATCH_BYTES = 256 << 10
"""A frame of several envelopes is so large at most, so that the peer can begin to read early."""
ENVELOPE_BYTES = 64
"""What an envelope needs beside its kind and its body, at most."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Envelope])


def size_of(envelope: Envelope) -> int:
    """The bytes of an envelope on its way, at most. A character of a kind has up to four."""
    return ENVELOPE_BYTES + 4 * len(envelope.kind) + len(envelope.body)


def framed(message: bytes) -> bytes:
    """A message as a frame."""
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


def encode(batch: Sequence[Envelope], batch_bytes: int) -> bytes:
    """Envelopes as frames of about `batch_bytes`, ready to be written."""
    chunks: list[bytes] = []
    for part in _parts(batch, batch_bytes):
        content = _encoder.encode(part)
        chunks.append(len(content).to_bytes(LENGTH_BYTES, "big"))
        chunks.append(content)
    return b"".join(chunks)


def _parts(batch: Sequence[Envelope], batch_bytes: int) -> Iterator[Sequence[Envelope]]:
    """The batch, cut so that a large envelope has a frame of its own."""
    first = 0
    gathered = 0
    for number, envelope in enumerate(batch):
        size = size_of(envelope)
        if gathered and gathered + size > batch_bytes:
            yield batch[first:number]
            first = number
            gathered = 0
        gathered += size
    if first < len(batch):
        yield batch[first:]


def decode(frame: bytes | memoryview) -> list[Envelope]:
    """The envelopes of a frame.

    Raises:
        Garbage: it does not hold envelopes.
    """
    try:
        return _decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        msg = f"a frame of {len(frame)} bytes holds no envelopes: {error}"
        raise Garbage(msg) from None


class FrameReader:
    """Cuts a stream of bytes into frames. It holds one unfinished frame at most."""

    __slots__ = ("_bytes_max", "_data", "_place")

    def __init__(self, bytes_max: int) -> None:
        """Take frames of so many bytes at most."""
        self._bytes_max = bytes_max
        self._data = bytearray()
        # What stands before it is taken. Cutting it off for each frame would copy the rest again.
        self._place = 0

    def allow(self, bytes_max: int) -> None:
        """Take frames of so many bytes from now on."""
        self._bytes_max = bytes_max

    @property
    def is_between(self) -> bool:
        """Whether no frame has begun."""
        return self._place == len(self._data)

    def feed(self, data: bytes) -> None:
        """Take further bytes of the stream."""
        del self._data[: self._place]
        self._place = 0
        self._data += data

    def next(self) -> bytes | None:
        """The next frame, without its length. None: it is not complete yet.

        Raises:
            FrameTooLarge: it is larger than a frame may be.
            Garbage: it is empty.
        """
        begin = self._place + LENGTH_BYTES
        if len(self._data) < begin:
            return None
        size = int.from_bytes(self._data[self._place : begin], "big")
        if size > self._bytes_max:
            msg = f"a frame of {size:,} bytes came, and {self._bytes_max:,} are allowed here"
            raise FrameTooLarge(msg)
        if size == 0:
            msg = "a frame without content came"
            raise Garbage(msg)
        end = begin + size
        if len(self._data) < end:
            return None
        self._place = end
        return bytes(memoryview(self._data)[begin:end])
