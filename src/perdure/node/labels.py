"""Labels: what people say of a node, such as `zone=eu-1`. Instances can be pinned to them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from perdure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TEXT = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_LABELS_MAX = 32
"""Labels of a node. Each node reads those of all others."""


def check_labels(labels: Mapping[str, object]) -> None:
    """Refuse labels that a node cannot have.

    Raises:
        UsageError: naming the label and the rule.
    """
    if len(labels) > _LABELS_MAX:
        msg = f"a node has {_LABELS_MAX} labels at most, got {len(labels)}"
        raise UsageError(msg)
    for key, value in labels.items():
        for text in (key, value):
            if not isinstance(text, str) or not _TEXT.fullmatch(text):
                msg = (
                    f"{text!r} cannot be in a label: use up to 64 letters, digits, '_', '.' and "
                    "'-', as in zone=eu-1"
                )
                raise UsageError(msg)


def read_labels(texts: Sequence[str]) -> dict[str, str]:
    """Labels from texts such as `zone=eu-1`.

    Raises:
        UsageError: naming the text that is none.
    """
    labels: dict[str, str] = {}
    for text in texts:
        key, mark, value = text.strip().partition("=")
        if not mark:
            msg = f"{text!r} is no label; write a name, '=' and a value: zone=eu-1"
            raise UsageError(msg)
        labels[key] = value
    check_labels(labels)
    return labels


def listed(text: str) -> list[str]:
    """The parts of a text between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
