"""Log records of what went wrong: attempts, checkpoints and instances that failed, and suspensions.

Python shows warnings and errors even where a program has set up no logging, so that nothing fails
without a word. The texts have the ids, because such a program sees nothing else of a record.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from perdure.codec.failure import user_place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.errors import Failure
    from perdure.kernel.data.commit import Letter, UnitRow
    from perdure.kernel.unit.turn import Milestones

logger = logging.getLogger("perdure.failures")


def log_call(what: str, failure: Failure, *, is_final: bool, ids: Mapping[str, object]) -> None:
    """An attempt of an activity has failed, or a checkpoint. `is_final`: it is not tried again."""
    rest = ""
    if is_final:
        rest = " for good"
    place = user_place(failure.traceback)
    logger.warning("%s failed%s: %s%s", what, rest, failure.display(), place, extra=dict(ids))


def log_letter(unit: str, letter: Letter, ids: Mapping[str, object]) -> None:
    """An instance has refused a message that does not fit, and the message is a dead letter now."""
    message = letter.message
    sender = "a client"
    if message.sender is not None:
        sender = repr(message.sender)
    text = (
        "%r refused a message from %s, and goes on without it: %s (dead letter %s: "
        "perdure letters show, resend and drop)"
    )
    letter_id = message.id.hex()
    extra = {**ids, "message_id": letter_id}
    logger.warning(text, unit, sender, letter.reason, letter_id, extra=extra)


def log_instance(row: UnitRow, milestones: Milestones, ids: Mapping[str, object]) -> None:
    """An instance has failed, or is suspended until people act. Other milestones go unsaid.

    A cancelled one is no failure: somebody has asked for it.
    """
    failure = row.failure
    if failure is None:
        return
    if milestones.held:
        logger.error(
            "%s %r is suspended (%s): %s More: `perdure explain %s`",
            row.type,
            row.id,
            row.reason,
            failure.message,
            row.reason,
            extra=dict(ids),
        )
    elif milestones.ended and row.status == "failed":
        level = logging.ERROR
        if row.parent_unit is not None:
            level = logging.WARNING  # the code of its parent is told, and may go on
        place = user_place(failure.traceback)
        text = "%s %r failed: %s%s"
        logger.log(level, text, row.type, row.id, failure.display(), place, extra=dict(ids))
