"""Payloads as JSON, for documents and for lines of text."""

from __future__ import annotations

from typing import cast

from perdure.cli.screen import json_text
from perdure.codec import DecodeError, to_json


def payload_json(data: object) -> object:
    """A payload as JSON. For an unreadable payload a sentence says so, and the page goes on."""
    if data is None:
        return None
    if not isinstance(data, bytes):  # a damaged file: columns of SQLite take any type
        return {"undecodable": f"it is {type(data).__name__}, not bytes"}
    try:
        return to_json(data)
    except DecodeError as error:
        # A newer release, or a payload codec of the user, may have written it.
        return {"undecodable": str(error), "hex": data.hex()}


def is_undecodable(document: object) -> bool:
    """Whether this is the result of `payload_json` for a payload that cannot be read."""
    return isinstance(document, dict) and "undecodable" in document


def arguments_text(data: bytes) -> str:
    """The arguments of a call on one line, as JSON."""
    arguments = payload_json(data)
    if isinstance(arguments, list):
        return ", ".join(json_text(one, indent=0) for one in cast("list[object]", arguments))
    return json_text(arguments, indent=0)
