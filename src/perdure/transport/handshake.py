"""The handshake: two peers show that they belong together, before the first envelope.

    connecting                                listening
    Hello: versions, nonce          ──▶
                                    ◀──       Hello: versions, nonce
    Proof: who I am, HMAC           ──▶
                                    ◀──       Proof: who I am, HMAC
                                              or Refusal: reason, text

Each HMAC has the cluster's token as its key. It covers the role of its sender and all messages
before it, so neither a recorded handshake nor the peer's own messages can be sent back as a proof,
and no third party can change what either peer said. The token itself never travels. The listening
peer says nothing of itself before the other has proved that it knows the token.

The token says who may talk. Only TLS hides and protects what is said afterwards.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from perdure.errors import UsageError
from perdure.ports.transport import Garbage, Peer, Refused, TransportError, TransportOptions

NONCE_BYTES = 32
KEEP_ALIVE_MIN_MS = 10
ABOUT_BYTES_MAX = 8 << 10
MAGIC = "perdure"


class Hello(msgspec.Struct, tag=0, array_like=True, frozen=True):
    """The first message of each peer."""

    magic: str
    versions: tuple[int, int]
    nonce: bytes


class About(msgspec.Struct, array_like=True, frozen=True):
    """What a peer says of itself: who it is, and the bounds that the other must know."""

    peer: Peer
    frame_bytes: int
    # An interval near zero would keep both peers busy with signs of life.
    keep_alive_ms: Annotated[int, msgspec.Meta(ge=KEEP_ALIVE_MIN_MS)]


class Proof(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """The second message of each peer. `about` is an encoded `About`, which the HMAC covers."""

    about: bytes
    mac: bytes


class Refusal(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """The last message to a peer that does not belong here."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a handshake has led to."""

    peer: Peer
    version: int
    keep_alive_ms: int
    # The largest frame that the peer takes.
    frame_bytes: int


@dataclass(frozen=True, slots=True)
class Step:
    """What to do after a message: send, then open the link or hang up. Else wait for the next."""

    send: bytes | None = None
    agreement: Agreement | None = None
    error: TransportError | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Hello | Proof | Refusal)
_about_decoder = msgspec.msgpack.Decoder(About)
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Handshake:
    """One peer's part in a handshake. It reads and makes messages, and touches no socket."""

    def __init__(
        self,
        role: Literal["connecting", "listening"],
        me: Peer,
        token: bytes,
        options: TransportOptions,
    ) -> None:
        """Begin as the peer that connects, or as the peer that listens.

        Raises:
            UsageError: what it would say of itself is too long.
        """
        self._role: Literal["connecting", "listening"] = role
        self._me = me
        self._token = token
        self._options = options
        about = About(me, options.frame_bytes, options.keep_alive_ms)
        self._about = _encoder.encode(about)
        if len(self._about) > ABOUT_BYTES_MAX:
            msg = f"the name and the features of node {me.node.node!r} are too long for a greeting"
            raise UsageError(msg)
        # All messages so far, in their order, each with its length.
        self._said = bytearray()
        self._version: int | None = None

    def begin(self) -> bytes | None:
        """The message with which the connecting peer begins. The listening peer has none."""
        if self._role == "listening":
            return None
        return self._hello()

    def received(self, message: bytes) -> Step:
        """Take a message of the peer."""
        try:
            found = _decoder.decode(message)
        except _UNREADABLE as error:
            return Step(error=Garbage(f"the handshake is none of Perdure: {error}"))
        if isinstance(found, Refusal):
            text = f"the peer refuses the link ({found.reason}): {found.text}"
            return Step(error=Refused(text, found.reason))
        if isinstance(found, Hello):
            return self._on_hello(found, message)
        return self._on_proof(found, message)

    def _hello(self) -> bytes:
        hello = Hello(MAGIC, self._options.versions, secrets.token_bytes(NONCE_BYTES))
        return self._saying(_encoder.encode(hello))

    def _saying(self, message: bytes) -> bytes:
        """Note a message of either peer."""
        # With its length, so that no two sequences of messages give the same bytes.
        self._said += len(message).to_bytes(4, "big") + message
        return message

    def _on_hello(self, hello: Hello, message: bytes) -> Step:
        if hello.magic != MAGIC or len(hello.nonce) != NONCE_BYTES or self._version is not None:
            return Step(error=Garbage("the handshake is none of Perdure: this is no greeting"))
        low, high = self._options.versions
        version = min(high, hello.versions[1])
        if version < max(low, hello.versions[0]):
            text = (
                f"the {self._role} node speaks versions {low} to {high} of the protocol, the other "
                f"{hello.versions[0]} to {hello.versions[1]}; upgrade the older of the two"
            )
            return _refuse("version", text)
        self._version = version
        self._saying(message)
        if self._role == "listening":
            return Step(send=self._hello())
        return Step(send=self._prove())

    def _prove(self) -> bytes:
        proof = Proof(self._about, self._mac(self._role, self._about))
        return self._saying(_encoder.encode(proof))

    def _mac(self, role: str, about: bytes) -> bytes:
        return hmac.digest(self._token, role.encode() + b"\0" + self._said + about, "sha256")

    def _on_proof(self, proof: Proof, message: bytes) -> Step:
        if self._version is None:
            return Step(error=Garbage("the handshake is none of Perdure: it begins with a proof"))
        peers_role = "listening"
        if self._role == "listening":
            peers_role = "connecting"
        if not hmac.compare_digest(proof.mac, self._mac(peers_role, proof.about)):
            # The peer may be anybody, so it is told no more than this.
            text = "the two nodes have different tokens; give all nodes of a cluster the same token"
            return _refuse("token", text)
        try:
            about = _about_decoder.decode(proof.about)
        except _UNREADABLE as error:
            return Step(error=Garbage(f"the peer says of itself what cannot be read: {error}"))
        peer = about.peer
        # A client serves no store, and talks to the nodes of any.
        if peer.store and self._me.store and peer.store != self._me.store:
            text = (
                f"node {self._me.node.node!r} serves the store {self._me.store!r}, and node "
                f"{peer.node.node!r} the store {peer.store!r}; give both the same URL"
            )
            return _refuse("store", text)
        self._saying(message)
        send: bytes | None = None
        if self._role == "listening":
            send = self._prove()
        keep_alive_ms = min(self._options.keep_alive_ms, about.keep_alive_ms)
        agreement = Agreement(peer, self._version, keep_alive_ms, about.frame_bytes)
        return Step(send=send, agreement=agreement)


def refusal(reason: str, text: str) -> bytes:
    """The message that tells a peer why it is refused."""
    return _encoder.encode(Refusal(reason, text))


def _refuse(reason: str, text: str) -> Step:
    """Tell both peers why there is no link."""
    return Step(send=refusal(reason, text), error=Refused(text, reason))
