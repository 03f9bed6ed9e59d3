"""Frames: any cut of a stream gives the same envelopes, and bytes of anybody give no other error than ours."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.ports.transport import Envelope, FrameTooLarge, Garbage
from perdure.transport.frame import FrameReader, decode, encode, framed

LIMIT = 10_000

envelopes = st.builds(
    Envelope,
    kind=st.text(max_size=20).filter(lambda text: text.isascii() or text.isprintable()),
    call=st.integers(0, 2**63),
    left_ms=st.integers(0, 2**40),
    body=st.binary(max_size=300),
)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The stream in pieces, as a network delivers it."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


def read(reader: FrameReader, pieces: Iterable[bytes]) -> list[Envelope]:
    found: list[Envelope] = []
    for piece in pieces:
        reader.feed(piece)
        while (frame := reader.next()) is not None:
            found += decode(frame)
    return found


@given(
    st.lists(st.lists(envelopes, min_size=1, max_size=5), max_size=5),
    st.lists(st.integers(0, 10**6), max_size=30),
    st.integers(100, 2_000),
)
def test_any_cut_of_a_stream_gives_what_was_sent(
    batches: list[list[Envelope]], places: list[int], batch_bytes: int
) -> None:
    stream = b"".join(encode(batch, batch_bytes) for batch in batches)
    reader = FrameReader(LIMIT)
    assert read(reader, cut(stream, places)) == [one for batch in batches for one in batch]
    assert reader.is_between


@given(st.binary(max_size=400), st.lists(st.integers(0, 10**6), max_size=8))
def test_any_bytes_give_envelopes_or_one_of_our_errors(data: bytes, places: list[int]) -> None:
    # Also as the content of a sound frame, which random bytes hardly ever are.
    for stream in (data, framed(data)):
        with suppress(Garbage, FrameTooLarge):
            read(FrameReader(LIMIT), cut(stream, places))


@given(st.lists(envelopes, min_size=1, max_size=4), st.data())
def test_a_damaged_stream_gives_envelopes_or_one_of_our_errors(
    batch: list[Envelope], data: st.DataObject
) -> None:
    stream = bytearray(encode(batch, LIMIT))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(stream) - 1))
        stream[place] = data.draw(st.integers(0, 255))
    with suppress(Garbage, FrameTooLarge):
        read(FrameReader(LIMIT), [bytes(stream)])


def test_a_frame_that_is_too_large_is_refused_by_its_length_alone() -> None:
    reader = FrameReader(LIMIT)
    reader.feed((LIMIT + 1).to_bytes(4, "big"))
    with pytest.raises(FrameTooLarge, match="10,001 bytes came, and 10,000 are allowed"):
        reader.next()


def test_deep_nesting_is_garbage() -> None:
    with pytest.raises(Garbage):
        decode(b"\x91" * 100_000)


def test_a_large_batch_becomes_several_frames() -> None:
    batch = [Envelope("mark", body=bytes(400)) for _ in range(10)]
    reader = FrameReader(1_000)
    reader.feed(encode(batch, 1_000))
    frames = 0
    while reader.next() is not None:
        frames += 1
    assert frames == 5


def test_the_format_stays() -> None:
    """Another version of the program reads these bytes."""
    batch = [Envelope("echo", 1, 5_000, b"body"), Envelope("mark"), Envelope(".cancel", 1)]
    assert encode(batch, LIMIT).hex() == (
        "000000289394a46563686f01cd1388c404626f647994a46d61726b0000c40094a72e63616e63656c0100c400"
    )
