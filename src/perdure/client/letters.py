"""Dead letters that are sent again."""

from __future__ import annotations

from hashlib import blake2b

from perdure.client.gateway import Gateway
from perdure.client.sending import check_sent
from perdure.kernel.data.message import Message, decode_body
from perdure.ports.store import DeadLetter


async def resend(gateway: Gateway, letter: DeadLetter) -> None:
    """Send a dead letter to its id again, and remove it.

    Raises:
        NotFound, NotRunning, InboxFull: nothing was sent, and the letter is kept.
    """
    # Not the id that it had, which the store knows as taken. A derived id, so that a call that was
    # interrupted between the two steps sends nothing twice.
    again = blake2b(letter.message, digest_size=16, person=b"sent again").digest()
    body = decode_body(letter.body)
    message = Message(again, letter.unit, body, gateway.clock.now_ms())
    check_sent(letter.unit, await gateway.post(message))
    await gateway.store.drop_letters([letter.message])
